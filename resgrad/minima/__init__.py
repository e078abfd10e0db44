"""Where training ends: symmetries and distances modulo them, critical points, convexity, basins."""
