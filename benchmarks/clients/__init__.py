"""Stock clients against `newleaf serve`: environments of their own, a script for each, and the table in
docs/compatibility.md."""
