"""What a run shows: report files, their tables and sentences, and the HTML page."""
