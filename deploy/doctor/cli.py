"""The `doctor` command: runs all checks and prints what they found, for people or as JSON."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.credentials import shown_urls_in
from common.findings import Finding, Severity, worst
from common.gateway_url import base_url
from deploy.doctor.machine_checks import check_cpu, check_disk, check_memory, check_open_files, check_secrets
from deploy.doctor.model_checks import check_bundles
from deploy.doctor.process_checks import check_engines, check_gateway, check_ports, check_redis
from deploy.doctor.running import Section, run
from deploy.doctor.settings_checks import check_conflicts, check_settings
from deploy.doctor.setup import find_set_up

SECTIONS = (
    Section("settings", check_settings),
    Section("conflicts", check_conflicts),
    Section("cpu", check_cpu),
    Section("memory", check_memory),
    Section("open files", check_open_files),
    Section("disk", check_disk),
    Section("secrets", check_secrets),
    Section("model", check_bundles),
    Section("ports", check_ports),
    Section("gateway", check_gateway),
    Section("engines", check_engines),
    Section("redis", check_redis),
)
MARKS: dict[Severity, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "note": ("·", "cyan"),
    "unseen": ("?", "cyan"),
    "warning": ("!", "yellow"),
    "fault": ("✗", "red"),
}
EXIT_STATUS: dict[Severity, int] = {"ok": 0, "note": 0, "unseen": 0, "warning": 1, "fault": 2}


@click.command("doctor")
@click.option("--url", help="Gateway to look at (client_url, else where this machine's would be).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder for all data (data_dir, .dejavec).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
@click.option("--quiet", "-q", is_flag=True, help="Only what is to be mended.")
def doctor(url: str | None, data_dir: Path | None, as_json: bool, quiet: bool) -> None:
    """Look for what is wrong with this set-up, before a start or while it runs, and say how to mend it.

    Changes nothing and prints no secret. Exit status: 0 nothing to mend, 1 warnings, 2 faults.
    """
    if url is not None:
        try:
            url = base_url(url)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from None
    found = run(SECTIONS, find_set_up(url, data_dir))
    severity = worst(finding for findings in found.values() for finding in findings)
    if as_json:
        click.echo(as_document(found))
    else:
        show(found, Console(highlight=False), quiet=quiet)
    sys.exit(EXIT_STATUS[severity])


def as_document(found: Mapping[str, list[Finding]]) -> str:
    """All findings as one JSON document: `worst`, and the list of findings with the section of each."""
    listed = [
        {"section": section, **{name: shown_urls_in(text) for name, text in finding.to_dict().items()}}
        for section, findings in found.items()
        for finding in findings
    ]
    return json.dumps({"worst": worst(one for part in found.values() for one in part), "findings": listed}, indent=2)


def show(found: Mapping[str, list[Finding]], console: Console, *, quiet: bool) -> None:
    """One line a finding, and below what is to be mended why it matters and how."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for section, findings in found.items():
        for finding in findings:
            if not quiet or EXIT_STATUS[finding.severity]:
                mark, colour = MARKS[finding.severity]
                name = finding.check if finding.check.startswith(section) else f"{section}: {finding.check}"
                table.add_row(Text(mark, style=colour), name, _text(finding))
    console.print(table)
    console.print(_summary([finding for findings in found.values() for finding in findings]))


def _text(finding: Finding) -> Text:
    text = Text(shown_urls_in(finding.what))
    if finding.severity != "ok" and finding.why:
        text.append(f"\n{finding.why}", style="dim")
    if finding.severity != "ok" and finding.remedy:
        text.append(f"\n→ {shown_urls_in(finding.remedy)}")
    return text


def _summary(findings: list[Finding]) -> Text:
    counts = {severity: sum(one.severity == severity for one in findings) for severity in ("fault", "warning")}
    if not any(counts.values()):
        return Text("\nNothing to mend.", style="bold green")
    parts = [f"{number} {name}{'s' if number != 1 else ''}" for name, number in counts.items() if number]
    return Text(f"\n{' and '.join(parts)} to mend.", style="bold")
