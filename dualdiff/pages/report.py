"""The page of a finding on disk."""

from pathlib import Path

from dualdiff.core.files import refuse_existing, write_text_atomically
from dualdiff.inspection.report_data import Report
from dualdiff.pages.listening_page import clip_page, entry_of
from dualdiff.pages.page import page


def write_report(path: Path, finding: Report, force: bool = False) -> None:
    """Write the page of a finding, atomically: of a folder of clips the listening page.

    Raises:
        UsageError: there is such a file already, and `force` is off.
        DualdiffError: it cannot be written.
    """
    refuse_existing([path], force)
    html = clip_page(finding, map(entry_of, finding.clips)) if finding.clips else page(finding)
    write_text_atomically(path, html)
