"""Ways to learn p(x | condition) and to draw from it. A family is called with (signature, network, precision,
options).
"""

from ..contracts import Family
from ..registry import Table
from .autoregressive import Autoregressive
from .bridge import Bridge
from .codecs import Fsq, Vae
from .consistency import Consistency
from .contrastive import Contrastive
from .cycle import Cycle
from .diffusion import Diffusion
from .drawn import Drawn, with_steps
from .equalised import Equalised
from .flow import Flow
from .gan import Gan
from .guided import Guided, can_be_guided, with_guidance
from .imported import ImportedAutoencoder, ImportedDenoiser
from .latent import Latent, density_of, latent_signature, words_of
from .regression import Regression
from .shortcut import Shortcut
from .unrolled import Unrolled

RUNTIME = ("signature", "network", "precision")  # what the run supplies; everything else is an option of the recipe

FAMILIES: Table[type[Family]] = Table(
    "family",
    {
        "autoregressive": Autoregressive,
        "bridge": Bridge,
        "consistency": Consistency,
        "contrastive": Contrastive,
        "cycle": Cycle,
        "gan": Gan,
        "diffusion": Diffusion,
        "flow": Flow,
        "regression": Regression,
        "shortcut": Shortcut,
        "unrolled": Unrolled,
        "vae": Vae,
        "vq": Fsq,
    },
    {
        "autoencoder_kl": ImportedAutoencoder,
        "diffusion_unet": ImportedDenoiser,
    },  # `fabrica import` writes their recipes
)

__all__ = [
    "FAMILIES",
    "RUNTIME",
    "Autoregressive",
    "Bridge",
    "Consistency",
    "Contrastive",
    "Cycle",
    "Diffusion",
    "Drawn",
    "Equalised",
    "Flow",
    "Fsq",
    "Gan",
    "Guided",
    "ImportedAutoencoder",
    "ImportedDenoiser",
    "Latent",
    "Regression",
    "Shortcut",
    "Unrolled",
    "Vae",
    "can_be_guided",
    "density_of",
    "latent_signature",
    "with_guidance",
    "with_steps",
    "words_of",
]
