// A model card's Markdown as elements: headings, paragraphs, lists, tables, code, emphasis, links. Text never becomes HTML.

import { element } from "./dom.js";

const INLINE = /(`[^`]+`|\*\*[^*]+\*\*|\*[^*\s][^*]*\*|\[[^\]]+\]\([^)\s]+\))/;

function inline(text) {
  return text.split(INLINE).filter(Boolean).map((part) => {
    if (/^`[^`]+`$/.test(part)) return element("code", {}, part.slice(1, -1));
    if (/^\*\*[^*]+\*\*$/.test(part)) return element("strong", {}, part.slice(2, -2));
    if (/^\*[^*\s][^*]*\*$/.test(part)) return element("em", {}, part.slice(1, -1));
    const link = /^\[([^\]]+)\]\(([^)\s]+)\)$/.exec(part);
    if (!link) return part;
    // Only web addresses: a card may come from anyone.
    return /^https?:\/\//.test(link[2]) ? element("a", { href: link[2], rel: "noopener noreferrer", target: "_blank" }, link[1]) : link[1];
  });
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim().replaceAll("\\|", "|"));
const isRule = (line) => line !== undefined && /^\s*\|?[\s:|-]*-[\s:|-]*$/.test(line) && line.includes("|");

function table(lines) {
  const align = cells(lines[1]).map((c) => (c.endsWith(":") ? "number" : ""));
  const row = (line, tag) => element("tr", {}, ...cells(line).map((c, i) => element(tag, { className: align[i] ?? "" }, ...inline(c))));
  return element("table", {}, element("thead", {}, row(lines[0], "th")), element("tbody", {}, ...lines.slice(2).map((l) => row(l, "td"))));
}

/** The elements of a card; front matter and the first title, which the page already shows, are left out. */
export function card(markdown) {
  const lines = markdown.replace(/\r/g, "").replace(/^---\n[\s\S]*?\n---\n/, "").trim().replace(/^# .*\n?/, "").split("\n");
  const made = [];
  for (let i = 0; i < lines.length;) {
    const take = (belongs) => {
      const from = i;
      while (i < lines.length && belongs(lines[i])) i++;
      return lines.slice(from, i);
    };
    const heading = /^(#{1,6}) +(.*)/.exec(lines[i]);
    if (!lines[i].trim()) {
      i++;
    } else if (lines[i].startsWith("```")) {
      i++;
      made.push(element("pre", {}, element("code", {}, take((l) => !l.startsWith("```")).join("\n"))));
      i++;
    } else if (heading) {
      made.push(element("h3", {}, ...inline(heading[2])));
      i++;
    } else if (isRule(lines[i + 1])) {
      made.push(table(take((l) => l.includes("|"))));
    } else if (/^[-*] /.test(lines[i])) {
      made.push(element("ul", {}, ...take((l) => /^[-*] /.test(l)).map((l) => element("li", {}, ...inline(l.slice(2))))));
    } else {
      const first = lines[i++];
      const more = take((l) => l.trim() && !/^(#|```|[-*] )/.test(l));
      made.push(element("p", {}, ...inline([first, ...more].join(" "))));
    }
  }
  return made;
}
