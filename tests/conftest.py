import os

# Two test processes with two threads each would fight for two cores; also inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
