// Two clips, two questions, three answers each. The server knows which takes they are; this page does not.

const QUESTIONS = [
  ["sync", "Whose lips fit the words better?"],
  ["naturalness", "Who moves more like a living person?"],
];
const SIDES = ["A", "B"];
const KEYS = { ArrowLeft: "A", ArrowDown: "same", ArrowRight: "B" };

const at = (id) => document.getElementById(id);
const clip = (side) => at(`clip-${side}`);

let number = 0; // of the trial
let state = { trials: 0, answered: 0, next: 0 };
let given = {}; // answers to this trial so far
let seen = new Set(); // sides that were played to their end
let queue = []; // sides still to be played

function complain(words) {
  at("problem").textContent = words;
  at("problem").hidden = words === "";
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) {
    throw new Error(body.error?.message ?? `the server answered ${response.status}`);
  }
  return body;
}

function show(wanted) {
  number = wanted;
  given = {};
  seen = new Set();
  stop();
  const over = number >= state.trials;
  at("trial").hidden = over;
  at("done").hidden = !over;
  at("progress").textContent = over
    ? `${state.answered} of ${state.trials} answered`
    : `Pair ${number + 1} of ${state.trials}, ${state.answered} answered`;
  if (!over) {
    for (const side of SIDES) {
      clip(side).src = `/v1/trials/${number}/${side}`;
    }
  }
  update();
}

function update() {
  const open = SIDES.every((side) => seen.has(side));
  at("question").textContent = QUESTIONS[Object.keys(given).length]?.[1] ?? "";
  for (const answer of ["A", "same", "B"]) {
    at(`answer-${answer}`).disabled = !open;
  }
  at("hint").hidden = open;
  at("back").disabled = number === 0 && Object.keys(given).length === 0;
}

function stop() {
  queue = [];
  for (const side of SIDES) {
    clip(side).pause();
    clip(side).classList.remove("playing");
  }
}

function play(...sides) {
  stop();
  queue = sides;
  following();
}

function following() {
  const side = queue.shift();
  if (side === undefined) {
    return;
  }
  const video = clip(side);
  video.currentTime = 0;
  video.classList.add("playing");
  video.play().catch((error) => {
    video.classList.remove("playing");
    if (error.name !== "AbortError" && error.name !== "NotAllowedError") {
      complain(`Clip ${side} cannot be played: ${error.message}`);
    }
  });
}

async function choose(answer) {
  if (at("trial").hidden || !SIDES.every((side) => seen.has(side)) || Object.keys(given).length >= QUESTIONS.length) {
    return;
  }
  given[QUESTIONS[Object.keys(given).length][0]] = answer;
  document.activeElement?.blur(); // or Space would press the button again
  update();
  if (Object.keys(given).length < QUESTIONS.length) {
    return;
  }
  try {
    state = await ask(`/v1/trials/${number}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(given),
    });
    complain("");
    show(state.next);
    if (number < state.trials) {
      play(...SIDES);
    }
  } catch (error) {
    complain(`The answer was not saved: ${error.message}`);
    given = {};
    update();
  }
}

function back() {
  const met = Object.keys(given);
  if (met.length > 0) {
    delete given[met[met.length - 1]];
    update();
  } else if (number > 0) {
    show(number - 1);
  }
}

for (const side of SIDES) {
  clip(side).addEventListener("ended", () => {
    clip(side).classList.remove("playing");
    seen.add(side);
    update();
    following();
  });
  clip(side).addEventListener("error", () => complain(`Clip ${side} cannot be shown by this browser.`));
  at(`play-${side}`).addEventListener("click", () => play(side));
}
at("play-both").addEventListener("click", () => play(...SIDES));
at("back").addEventListener("click", back);
for (const answer of ["A", "same", "B"]) {
  at(`answer-${answer}`).addEventListener("click", () => choose(answer));
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) {
    return;
  }
  const onButton = document.activeElement instanceof HTMLButtonElement;
  if (event.key in KEYS) {
    choose(KEYS[event.key]);
  } else if (event.key === "1" || event.key === "2") {
    play(SIDES[Number(event.key) - 1]);
  } else if (event.key === " " && !onButton) {
    play(...SIDES);
  } else if (event.key === "Backspace") {
    back();
  } else {
    return;
  }
  event.preventDefault();
});

try {
  state = await ask("/v1/state");
  show(state.next);
} catch (error) {
  complain(`The server does not answer: ${error.message}`);
}
