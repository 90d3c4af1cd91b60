"""Results for people: a self-contained HTML page and tables and progress on the terminal."""

from deepfusion_toolkit.report.html import page, write_html
from deepfusion_toolkit.report.pictures import perturbation
from deepfusion_toolkit.report.sections import (
    Bar,
    Bars,
    Figure,
    Figures,
    HeatCell,
    HeatMap,
    HeatRow,
    Message,
    Messages,
    Picture,
    PictureRow,
    Prediction,
    Section,
    Settings,
    Strip,
    Table,
    Text,
    Warnings,
    share,
)
from deepfusion_toolkit.report.terminal import progress, table

__all__ = [
    "Bar",
    "Bars",
    "Figure",
    "Figures",
    "HeatCell",
    "HeatMap",
    "HeatRow",
    "Message",
    "Messages",
    "Picture",
    "PictureRow",
    "Prediction",
    "Section",
    "Settings",
    "Strip",
    "Table",
    "Text",
    "Warnings",
    "page",
    "perturbation",
    "progress",
    "share",
    "table",
    "write_html",
]
