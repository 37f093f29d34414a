"""What motion and pictures are judged by: plain functions of plain arrays, which know neither tracker nor network.

Every figure says how it is computed, its range, which way is good, where it is from and what it does not see. Where the
independent judge (../shared/tools/judge.py) has the same figure, it is the same number.
"""
