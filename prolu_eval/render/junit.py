"""A comparison as JUnit XML, with a test case for each judgement."""

import re
from xml.etree import ElementTree as ET

from prolu_eval.comparison.verdicts import Comparison

_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def comparison_junit(comparison: Comparison) -> bytes:
    """The XML: a regression is a failure, an incomparable row an error; other rows pass."""
    rows = comparison.rows
    counts: dict[str, str] = {
        "tests": str(len(rows)),
        "failures": str(sum(row.verdict == "regression" for row in rows)),
        "errors": str(sum(row.verdict == "incomparable" for row in rows)),
    }
    suites = ET.Element("testsuites", {"name": "prolu-eval", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": "prolu-eval compare", **counts})
    suite.attrib |= {"skipped": "0", "time": "0"}
    for row in rows:
        name, owner = _valid(row.metric or "comparable"), _valid(row.run)
        case = ET.SubElement(suite, "testcase", classname=owner, name=name, time="0")
        explanation = _valid(row.explanation)
        if row.verdict in ("regression", "incomparable"):
            tag = "failure" if row.verdict == "regression" else "error"
            mark = ET.SubElement(case, tag, type=row.verdict, message=explanation)
            mark.text = f"{_valid(row.title)}: {explanation}"
        elif explanation:
            ET.SubElement(case, "system-out").text = f"{row.verdict}: {explanation}"
    ET.SubElement(suite, "system-out").text = _valid(comparison.method)
    ET.indent(suites)
    content: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content


def _valid(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return _INVALID.sub("\ufffd", text)
