// For narrow screens; site.css does what the classes say. A name in a table moves to the next line as a whole, with the
// punctuation around it. A name that is wider than its column breaks between its words, and nowhere else.
const LETTERS = 40; // the letters of code that fit into one line of a table
const BREAK = new RegExp(
  [
    /(?<=[^\W_]_)(?=[^\W_])/, // after_|response
    /(?<=\w\/|\w\()(?=[\w"'][^)]{4})/, // _drive/|calls.py, schedule(|send)
    /(?<==)(?=[A-Z"'])/, // config=|TaskConfig
    /(?<=[\w)\]]\.)(?!py\b)(?=[A-Za-z_])/, // tasks.|task
    /(?<=\w{9}[a-z])(?=[A-Z][a-z]\w{6})/, // termination|GracePeriodSeconds
  ]
    .map((pattern) => pattern.source)
    .join("|"),
);

for (const code of document.querySelectorAll(".md-typeset :is(td, th, h1, h2, h3) code")) {
  const columns = code.closest("tr")?.children.length ?? 2;
  const isShort = code.textContent.length <= LETTERS / columns;
  const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
  const found = [];
  while (!isShort && texts.nextNode()) found.push(texts.currentNode);
  for (const text of found) {
    const parts = text.data.split(BREAK);
    text.replaceWith(...parts.flatMap((part, at) => (at ? [document.createElement("wbr"), part] : [part])));
  }

  if (!code.closest("tr")) continue;
  const whole = document.createElement("span");
  whole.className = isShort ? "whole short" : "whole";
  const link = code.parentElement;
  const name = link.matches("a") && link.childNodes.length === 1 ? link : code;
  name.replaceWith(whole);
  whole.append(name);
  const before = whole.previousSibling?.data?.match(/\($/);
  if (before) whole.prepend(whole.previousSibling.splitText(before.index));
  const after = whole.nextSibling?.data?.match(/^[,.;:)]+/);
  if (after) {
    whole.nextSibling.splitText(after[0].length);
    whole.append(whole.nextSibling);
  }
}
