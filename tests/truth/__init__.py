"""Key maps that others wrote, as truth to score inference against."""
