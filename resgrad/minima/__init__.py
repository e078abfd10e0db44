"""Where training ends.

``symmetry`` knows the changes of parameters that leave a network's function as it is, and ``alignment`` the distance
of two networks modulo them.  ``landscape`` goes to critical points of the exact expected loss and looks at their
Hessian.  ``convexity`` measures how strongly gradients point to the teacher.  ``basins`` trains until it is certain
in which basin a run is, and says which minima are the same.
"""
