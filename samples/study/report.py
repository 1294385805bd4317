"""Write the tables and figures of the study: ``python samples/study/report.py [FOLDER]``.

FOLDER, by default the folder of this script, has the tables that collect.py writes. It receives tables/*.md and .figures/*.png
(hidden, so that ``xplain evaluate samples`` does not take them for photographs).
"""

from __future__ import annotations

import sys
from pathlib import Path

import study_figures as figures
import study_tables as tables
from study_data import Network, read_networks

from xplain.reports.figures import paper_style


def network_tables(network: Network) -> dict[str, str]:
    """Return the tables of a network by the end of their file name."""
    texts = {
        "": tables.primary_table(network),
        ".metrics": tables.metrics_table(network),
        ".cost": tables.cost_table(network),
        ".photographs": tables.photographs_table(network),
    }
    if len(network.fills()) > 1:
        texts[".fills"] = tables.fills_table(network)
    if set(tables.STABILITY) <= set(network.values):
        texts[".stability"] = tables.stability_table(network)
    return texts


def network_figures(network: Network) -> dict[str, bytes]:
    """Return the figures of a network by the end of their file name."""
    drawn = {".forest": figures.draw_forest(network), ".agreement": figures.draw_agreement(network)}
    if len(network.fills()) > 1:
        drawn[".fills"] = figures.draw_fills(network)
    if set(tables.STABILITY) <= set(network.values):
        drawn[".stability"] = figures.draw_stability_and_faithfulness(network)
    return drawn


def main(folder: str = str(Path(__file__).parent)) -> None:
    """Read the values and write tables and figures."""
    networks = read_networks(Path(folder))
    table_folder, figure_folder = Path(folder, "tables"), Path(folder, ".figures")
    table_folder.mkdir(exist_ok=True)
    figure_folder.mkdir(exist_ok=True)
    with paper_style():
        for network in networks:
            heading = f"{network.title} photographs, {network.correct.sum()} of them predicted correctly\n\n"
            for end, text in network_tables(network).items():
                (table_folder / f"{network.name}{end}.md").write_text(heading + text + "\n", "utf-8")
            for end, content in network_figures(network).items():
                (figure_folder / f"{network.name}{end}.png").write_bytes(content)
        if len(networks) > 1:
            text = tables.networks_table(networks) + "\n\n" + tables.signs_table(networks)
            (table_folder / "networks.md").write_text(text + "\n", "utf-8")
        (figure_folder / "ranks.png").write_bytes(figures.draw_ranks(networks))
        (figure_folder / "images.png").write_bytes(figures.draw_stability_of_order(networks))


if __name__ == "__main__":
    main(*sys.argv[1:])
