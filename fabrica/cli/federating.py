"""Verbs of learning at many sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .terminal import echo, errors, fail

federate = typer.Typer(help="One model learned at many sites; images stay where they are.", no_args_is_help=True)
app.add_typer(federate, name="federate")
Certificates = Annotated[Path, typer.Option(metavar="DIR", help="Certificates and secret of the federation.")]
Flower = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Flower's environment; .venv-federation when left out.")
]


@federate.command()
def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    host: Annotated[str, typer.Option(help="Name or address by which sites reach the server.")] = "127.0.0.1",
) -> None:
    """Make a server's certificate and a secret; sites get authority.pem and secret, nothing else."""
    from ..federate.flower import make_certificates

    with errors():
        make_certificates(folder, host)
        echo(f"In {folder}: hand authority.pem and secret to every site, by a way that you trust.")


@federate.command()
def server(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe of one stage, the same at every site.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="A new run folder.")],
    certificates: Certificates,
    sites: Annotated[int, typer.Option(min=1, help="Sites that are waited for.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a site in a round.")] = 20,
    least: Annotated[int, typer.Option(min=1, help="Answers that make a round.")] = 1,
    proximal: Annotated[float, typer.Option(min=0, help="How strongly sites are held at the shared weights.")] = 0.0,
    local: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Weights that stay at the sites, by how names begin.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8443,
    patience_s: Annotated[float, typer.Option(min=1, help="Seconds that a round is waited for.")] = 600.0,
    flower: Flower = None,
) -> None:
    """Ask sites for rounds of learning and bring their weights together; ends with a run."""
    from ..federate.server import Gathering, serve
    from ..learning.federation import FederationError, LocalPlan
    from ..recipe.checks import load

    with errors():
        plan = LocalPlan(steps, proximal=proximal, local=tuple(local or ()))
        asked = Gathering(sites, rounds, plan, least, patience_s)
        try:
            serve(load(recipe), out, asked, (host, port), certificates, echo, flower)
        except FederationError as error:
            fail(str(error))


@federate.command()
def client(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The server's recipe.")],
    data: Annotated[list[str], typer.Option(metavar="[NAME=]DIR", help="This site's scans.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")],
    certificates: Certificates,
    name: Annotated[str, typer.Option(help="What this site is called.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Where its images are prepared.")],
    flower: Flower = None,
) -> None:
    """Learn on this site's images whenever the server asks; images stay here."""
    from ..federate.site import Site, join
    from ..learning.federation import FederationError
    from ..recipe.checks import load

    with errors():
        site = Site.of(load(recipe, data=data), work, certificates, name, echo)
        try:
            join(site, server, certificates, work, echo, flower)
        except FederationError as error:
            fail(str(error))
