"""Where training ends: symmetry, critical points, basins."""
