/* An input method: what is typed is read into candidates, one of which is chosen. */
{
  const CHOICES_SHOWN = 9;
  const WIDE = {",": "，", ".": "。", "?": "？", "!": "！", ":": "：", ";": "；"};
  const editor = at("editor");
  let letters = "";  // typed, and not yet chosen for
  let range = [0, 0];  // where in the text the choice will stand
  let offered = [], offeredFor = "", active = 0, asked = null;
  let keys = [], pressed = 0;  // keys that wait for candidates; when the last one was pressed
  let text = "", origins = [];  // of each UTF-16 unit the part that it belongs to; null where it was not chosen

  const isLetter = key => /^[A-Za-z]$/.test(key);
  const needsCandidates = key => !isLetter(key) && !["'", "Backspace", "Escape", "Enter"].includes(key);
  const moves = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: CHOICES_SHOWN, "=": CHOICES_SHOWN,
    PageUp: -CHOICES_SHOWN, "-": -CHOICES_SHOWN};

  async function offer() {
    if (asked) asked.abort();
    const own = asked = new AbortController(), typed = letters, start = pressed;
    showChoices();
    try {
      const {candidates} = await (await call("candidates", {text: typed}, own.signal)).json();
      if (asked !== own) return;  // more was typed since
      [offered, offeredFor, active] = [candidates, typed, 0];
      complain(null);
      showChoices();
      performance.measure("candidates", {start});
      applyKeys();
    } catch (error) {
      if (error.name === "AbortError" || asked !== own) return;
      keys = [];
      complain(error);
    }
  }

  function applyKeys() {
    while (keys.length && !(letters && offeredFor !== letters && needsCandidates(keys[0]))) apply(keys.shift());
  }

  function apply(key) {
    if (isLetter(key) || (key === "'" && letters)) {
      if (!letters) range = [editor.selectionStart, editor.selectionEnd];
      if (letters.length < about.candidates.max_characters) letters += key;
      offer();
    } else if (!letters) {
      range = [editor.selectionStart, editor.selectionEnd];
      if (key === "Enter" || key.length === 1) insert([{text: key === "Enter" ? "\n" : WIDE[key] || key, letters: ""}]);
    } else if (key === "Backspace") {
      letters = letters.slice(0, -1);
      if (letters) offer(); else close();
    } else if (key === "Escape") close();
    else if (key === "Enter") choose({parts: [[letters, letters.length]]});
    else if (key === " ") choose(offered[active]);
    else if (/^[1-9]$/.test(key)) choose(offered[active - active % CHOICES_SHOWN + Number(key) - 1]);
    else if (moves[key]) move(moves[key]);
    else if (key.length === 1) {
      choose(offered[active]);
      keys.unshift(key);  // behind what is left of the letters
    }
  }

  function move(step) {
    const isPage = Math.abs(step) > 1, to = (isPage ? active - active % CHOICES_SHOWN : active) + step;
    if (to < 0 || to >= offered.length) return;
    active = to;
    showChoices();
  }

  function choose(candidate) {
    if (!candidate) return;
    let start = 0;
    insert(candidate.parts.map(([part, end]) => {
      const own = {text: part, letters: letters.slice(start, end)};
      start = end;
      return own;
    }));
    letters = letters.slice(start).replace(/^'+/, "");
    if (letters) offer(); else close();
  }

  function insert(parts) {
    const units = parts.flatMap(own => Array(own.text.length).fill(own.letters ? own : null));
    origins.splice(range[0], range[1] - range[0], ...units);
    editor.setRangeText(parts.map(own => own.text).join(""), ...range, "end");
    range = [range[0] + units.length, range[0] + units.length];
    text = editor.value;
  }

  function close() {
    if (asked) asked.abort();
    [asked, letters, offered, offeredFor] = [null, "", [], ""];
    showChoices();
  }

  /* Offer the selected text again, or the character before the cursor. */
  function again() {
    let [start, end] = [editor.selectionStart, editor.selectionEnd];
    if (start === end) start = Math.max(0, start - 1);
    while (origins[start] && origins[start] === origins[start - 1]) start--;
    while (origins[end] && origins[end] === origins[end - 1]) end++;
    const parts = [...new Set(origins.slice(start, end))];
    editor.focus();
    if (!parts.length || parts.includes(null)) {
      complain(new Error("The letters of the selected text are not known."));
      return;
    }
    complain(null);
    editor.setSelectionRange(start, end);
    pressed = performance.now();
    range = [start, end];
    letters = parts.map(own => own.letters.replace(/'$/, "")).join("'");
    offer();
  }

  function showChoices() {
    const isCurrent = offeredFor === letters, first = active - active % CHOICES_SHOWN;
    const ends = isCurrent && offered[active] ? offered[active].parts.map(([, end]) => end) : [];
    const cut = [...ends, letters.length].map((end, number) => letters.slice(number && ends[number - 1], end));
    at("letters").textContent = cut.filter(Boolean).join(" ");
    const choices = offered.slice(first, first + CHOICES_SHOWN).map((candidate, number) => {
      const item = make("li");
      item.id = `choice${number}`;
      item.role = "option";
      item.ariaSelected = String(first + number === active);
      item.append(make("b", "", String(number + 1)), candidate.text);
      return item;
    });
    at("choices").replaceChildren(...choices);
    at("choices").ariaBusy = String(!isCurrent);
    if (choices.length) editor.setAttribute("aria-activedescendant", `choice${active - first}`);
    else editor.removeAttribute("aria-activedescendant");
    const num = Math.ceil(offered.length / CHOICES_SHOWN);
    at("pages").textContent = num > 1 ? `page ${first / CHOICES_SHOWN + 1} of ${num}` : "";
  }

  editor.addEventListener("keydown", event => {
    const {key} = event;
    if (event.isComposing || (event.altKey && !event.getModifierState("AltGraph"))) return;
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && key === "Enter" && !letters) again();
    else if (isCommand) return;
    else {
      const isBusy = letters || keys.length, isBehindHanzi = /[\u3400-\u9fff]/.test(text[editor.selectionStart - 1] || "");
      const isOwn = key.length === 1 || key in moves || ["Backspace", "Escape", "Enter"].includes(key);
      if (!(isBusy ? isOwn : isLetter(key) || (key in WIDE && isBehindHanzi))) return;
      pressed = event.timeStamp;
      keys.push(key);
      applyKeys();
    }
    event.preventDefault();
  });
  editor.addEventListener("input", () => {
    const now = editor.value, most = Math.min(text.length, now.length);
    let start = 0, end = 0;
    while (start < most && text[start] === now[start]) start++;
    while (end < most - start && text[text.length - 1 - end] === now[now.length - 1 - end]) end++;
    origins.splice(start, text.length - start - end, ...Array(now.length - start - end).fill(null));
    text = now;
    if (letters) close();
  });
  at("choices").addEventListener("pointerdown", event => event.preventDefault());  // the editor keeps the focus
  at("choices").addEventListener("click", event => {
    const item = event.target.closest("li");
    if (!item || offeredFor !== letters) return;
    pressed = event.timeStamp;
    choose(offered[active - active % CHOICES_SHOWN + Number(item.id.slice("choice".length))]);
  });
  at("again").addEventListener("click", again);
}
