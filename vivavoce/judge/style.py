"""How the page looks."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5d6675; --faint: #e3e6ec; --paper: #fff; --card: #f6f7f9;
  --gen: #1f6feb; --real: #b3540e; --wave: #d5dae3; --band: #7c3aed22; --word: #7c3aed; --bad: #b42318;
  --s0: #1f6feb; --s1: #d9480f; --s2: #2b8a3e; --s3: #ae3ec9; --s4: #0b7285; --s5: #c2255c; --s6: #866118; --s7: #5f3dc4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --faint: #2b313c; --paper: #14181f; --card: #1b2028; --gen: #6ea8fe; --real: #ff9a4d;
    --wave: #333b48; --band: #a78bfa33; --word: #b79cff; --bad: #ff8b7e;
    --s0: #6ea8fe; --s1: #ff922b; --s2: #69db7c; --s3: #e599f7; --s4: #3bc9db; --s5: #faa2c1; --s6: #ffd43b; --s7: #b197fc; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0; } h3 { font-size: 16px; margin: 0; }
section { margin-top: 36px; } header p { margin: 4px 0; color: var(--soft); }
section > p { color: var(--soft); margin: 4px 0 12px; }
summary { cursor: pointer; } summary > h2, summary > h3 { display: inline; }
a { color: var(--gen); } code { font-size: 12px; color: var(--soft); }
.note { border-left: 3px solid var(--real); padding: 2px 10px; color: var(--soft); margin: 8px 0; }
.scroll { overflow-x: auto; margin-top: 10px; } .scroll > svg, .scroll > .sheet { min-width: 620px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--faint); vertical-align: baseline; }
thead th { font-size: 13px; color: var(--soft); font-weight: 600; white-space: nowrap; }
td.s { white-space: nowrap; } th.n, td.n { text-align: right; white-space: nowrap; }
tr.topic th { padding-top: 16px; border-bottom: 1px solid var(--soft); }
td:first-child { white-space: nowrap; } td.best, .unit { color: var(--soft); font-size: 13px; font-weight: 400; }
td.best { white-space: nowrap; }
.interval { display: block; font-size: 12px; color: var(--soft); }
.reward { font-size: 11px; color: var(--bad); border: 1px solid currentColor; border-radius: 4px; padding: 0 4px; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--card); border-radius: 10px; padding: 10px; }
figcaption { font-size: 13px; font-weight: 600; margin-bottom: 4px; }
.clip { margin-top: 18px; background: var(--card); border-radius: 10px; padding: 12px 14px; }
.legend { margin: 6px 0 0; font-size: 13px; } .key::before { content: ""; display: inline-block; width: 18px; height: 3px;
  margin: 0 6px 3px 0; vertical-align: middle; background: currentColor; } .key { margin-right: 16px; }
.key.gen { color: var(--gen); } .key.real { color: var(--real); }
.scroll > .unit { margin: 4px 0 0; } .sheet { display: block; width: 100%; border-radius: 6px; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: 6px; padding: 0; margin: 12px 0 0; font-size: 13px; }
.chips li { border: 1px solid var(--faint); border-radius: 6px; padding: 1px 8px; } .chips li.bad { border-color: var(--bad); }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; background: currentColor; }
dt { font-weight: 600; margin-top: 8px; } dd { margin: 0; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); } .tick { text-anchor: end; } .time, .word, .axis { text-anchor: middle; }
svg .word { fill: var(--word); font-size: 10px; } svg .name { fill: var(--ink); }
.grid { stroke: var(--faint); } .wave { fill: var(--wave); } .band { fill: var(--band); }
.curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .curve.gen { stroke: var(--gen); }
.curve.real { stroke: var(--real); }
.target { stroke: var(--soft); stroke-dasharray: 4 3; } .span { stroke: var(--ink); stroke-width: 2; }
.mean { stroke: var(--ink); stroke-width: 3; } .dot { fill: currentColor; opacity: 0.55; } .rec { color: var(--soft); }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); } .s3 { color: var(--s3); }
.s4 { color: var(--s4); } .s5 { color: var(--s5); } .s6 { color: var(--s6); } .s7 { color: var(--s7); }
@media (max-width: 640px) {
  main { padding: 16px 12px 48px; } body { font-size: 14px; } th, td { padding-right: 12px; }
  td:first-child { white-space: normal; min-width: 8.5em; } .interval { white-space: normal; max-width: 9em; margin-left: auto; }
  .grid2 { grid-template-columns: 1fr; } td.said { min-width: 15em; }
}
@media print { details { display: block; } .clip { break-inside: avoid; } }
"""
