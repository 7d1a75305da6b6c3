"use strict";
// Shows the cases in which every word of the search stands.
(() => {
  const box = document.getElementById("case-search");
  const count = document.getElementById("case-count");
  const rows = [...document.querySelectorAll("#cases tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, number) => {
      row.hidden = !words.every((word) => texts[number].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = `${shown} of ${rows.length}`;
  };
  document.getElementById("finder").hidden = false;
  box.addEventListener("input", show);
  show();
})();
