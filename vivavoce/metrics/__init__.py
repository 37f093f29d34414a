"""What generated motion is judged by: plain functions of plain arrays, which know neither tracker nor network."""
