"""Two tasks as MultiPL-E writes them, with solutions."""

from __future__ import annotations

from typing import Any

JS: dict[str, Any] = {
    "name": "HumanEval_0_has_close",
    "language": "js",
    "prompt": "//Whether two numbers are closer than the threshold.\n"
    "function has_close(numbers, threshold){\n",
    "tests": "const assert = require('node:assert');\n\n\nfunction test() {\n"
    "  let candidate = has_close;\n"
    "  assert.deepEqual(candidate([1.0, 2.0, 3.9, 4.0], 0.3),true);\n"
    "  assert.deepEqual(candidate([1.0, 2.0], 0.05),false);\n"
    "  assert.deepEqual(candidate([], 0.05),false);\n}\n\ntest();",
    "stop_tokens": ["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
}
JS_SOLUTION = (
    "  for (let i = 0; i < numbers.length; i++)\n"
    "    for (let j = 0; j < i; j++)\n"
    "      if (Math.abs(numbers[i] - numbers[j]) < threshold) return true;\n"
    "  return false;\n}\n"
)
JAVA: dict[str, Any] = {
    "name": "HumanEval_5_intersperse",
    "language": "java",
    "prompt": "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n"
    "    // Insert a number between the elements.\n"
    "    public static ArrayList<Long> intersperse(ArrayList<Long> numbers, long d) {\n",
    "tests": "    }\n    public static void main(String[] args) {\n"
    "    assert(intersperse((new ArrayList<Long>(Arrays.asList())), (7l))"
    ".equals((new ArrayList<Long>(Arrays.asList()))));\n"
    "    assert(intersperse((new ArrayList<Long>(Arrays.asList((long)5l, (long)6l))), (8l))"
    ".equals((new ArrayList<Long>(Arrays.asList((long)5l, (long)8l, (long)6l)))));\n    }\n\n}\n",
    "stop_tokens": ["\n    }\n"],
}
JAVA_SOLUTION = (
    "        ArrayList<Long> found = new ArrayList<>();\n"
    "        for (long number : numbers) {\n"
    "            if (!found.isEmpty()) found.add(d);\n"
    "            found.add(number);\n        }\n"
    "        return found;"
)
