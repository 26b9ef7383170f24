"""The style of HTML pages: comparisons and marked texts."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --back: #f5f7f9; --ink: #1f2933; --muted: #66727f; --line: #e1e6eb;
  --better: #2460c4; --better-back: #e6effd; --worse: #b4530a; --worse-back: #fdeedd;
  --unclear-back: #eef1f4; --mark: #fbd9d3; --mark-ink: #8f1f14;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161b22; --back: #0d1117; --ink: #e6edf3; --muted: #9aa7b4; --line: #30363d;
    --better: #8ab8ff; --better-back: #16294a; --worse: #ffb070; --worse-back: #43280f;
    --unclear-back: #232a33; --mark: #5c2320; --mark-ink: #ffd9d4;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Noto Sans CJK SC",
    "Microsoft YaHei", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 56px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 12px; }
.lead { font-size: 16px; margin: 0 0 22px; color: var(--muted); }
section, figure {
  background: var(--paper); border: 1px solid var(--line); border-radius: 12px; margin: 0 0 18px; padding: 18px 20px;
}
figure img { display: block; width: 100%; max-width: 880px; height: auto; margin: 0 auto; }
figure img.dark { display: none; }
@media (prefers-color-scheme: dark) {
  figure img.light { display: none; }
  figure img.dark { display: block; }
}
figcaption, .told { color: var(--muted); font-size: 13px; margin: 12px 0 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th {
  text-align: left; font-weight: 600; font-size: 13px; color: var(--muted); padding: 0 14px 6px 0; white-space: nowrap;
}
td { border-top: 1px solid var(--line); padding: 8px 14px 8px 0; vertical-align: top; }
table.numbers td, table.tests td { font-variant-numeric: tabular-nums; white-space: nowrap; }
table.examples td { min-width: 3em; overflow-wrap: anywhere; }
table.examples td:not(:nth-child(2)) { min-width: 5.5em; }
table.examples td:first-child { min-width: 3.5em; }
small { display: block; color: var(--muted); font-size: 12px; }
.input { color: var(--muted); }
.tag { font-size: 11px; color: var(--muted); border: 1px solid var(--line); border-radius: 9px; padding: 1px 7px; }
.verdict { border-radius: 9px; padding: 2px 9px; font-size: 13px; }
.verdict.better { color: var(--better); background: var(--better-back); }
.verdict.worse { color: var(--worse); background: var(--worse-back); }
.verdict.unclear { color: var(--muted); background: var(--unclear-back); }
span.better { color: var(--better); } span.worse { color: var(--worse); }
mark { background: var(--mark); color: var(--mark-ink); border-radius: 3px; padding: 0 1px; }
.right { color: var(--better); }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
a { color: var(--better); }
ul { margin: 0; padding-left: 20px; }
@media print { body { background: #ffffff; } section, figure { break-inside: avoid; } }
"""
