# What `__getattr__` of __init__.py hands out, for type checkers; a test keeps the two alike.
from .architectures import ARCHITECTURES as ARCHITECTURES
from .architectures import Architecture as Architecture
from .architectures import Network as Network
from .census import census as census
from .designed import HermiteSpectrum as HermiteSpectrum
from .designed import KernelLoss as KernelLoss
from .designed import hermite_spectrum as hermite_spectrum
from .draws import dataset as dataset
from .draws import draw as draw
from .draws import streams as streams
from .flow import gradient_flow as gradient_flow
from .gelee_ma import GeLeeMaLoss as GeLeeMaLoss
from .gradcheck import GradientReport as GradientReport
from .gradcheck import check_gradient as check_gradient
from .gradcheck import check_hessian as check_hessian
from .losses import EmpiricalLoss as EmpiricalLoss
from .losses import OnlineLoss as OnlineLoss
from .losses import PopulationLoss as PopulationLoss
from .minima.alignment import Alignment as Alignment
from .minima.alignment import align as align
from .minima.convexity import convexity_region as convexity_region
from .minima.convexity import one_point as one_point
from .minima.landscape import polish as polish
from .minima.landscape import spectrum as spectrum
from .minima.proofs import Certificate as Certificate
from .minima.proofs import certify as certify
from .minima.symmetry import convert as convert
from .minima.symmetry import transform as transform
from .optimizers import OPTIMIZERS as OPTIMIZERS
from .optimizers import SGD as SGD
from .optimizers import Nesterov as Nesterov
from .runs.tally import Census as Census
from .training import Trajectory as Trajectory
from .training import train as train

__version__: str
