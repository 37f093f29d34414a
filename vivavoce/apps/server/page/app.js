// The page: what was clicked, dropped and typed becomes speech for the live session, and what the session does is told.

import { Problem } from "./api.js";
import { acceptFiles, kindOf } from "./files.js";
import { Live } from "./live.js";
import { Player } from "./player.js";
import { Portraits } from "./portraits.js";
import { decodeSound, openMicrophone } from "./sound.js";
import { VideoCard } from "./video.js";

const RATE_HZ = 24000;
const AHEAD_SECONDS = 5; // that a file is sent before it is heard
const PIECE_SECONDS = 0.5;
const MOST_BEHIND_SECONDS = 0.5; // of the microphone's speech; then what is nearly silent is left out until it has caught up
const QUIET = 0.01; // peak of a piece that may be left out
const SETTLED_SECONDS = 0.6; // after the last change of a slider that needs a new session
const OVER_SECONDS = 2; // of silence after all that was sent
const NOTICED = 5; // pictures of a second that were not shown
const STARTING_SECONDS = 0.4;
const TROUBLE_SECONDS = 4; // that words about it stay

const element = (id) => document.getElementById(id);
const strengths = ["expression", "head", "blink", "gaze"];
const strength = (name) => Number(element(name).value);

const player = new Player(element("portrait"), RATE_HZ, showSoundButton);
const live = new Live({
  opened,
  picture: (packet) => player.picture(packet),
  sound,
  segment,
  interrupted,
  status,
  trip: (seconds) => (session.trip = seconds),
  problem: refused,
  lost,
});
const portraits = new Portraits({ chosen: connect, busy: preparing, problem: complain });
const video = new VideoCard(videoFields, complain);

// What is known of the session.
const session = { connecting: true, delay: 0, trip: 0, status: null, stale: false };
let settled; // timer: a slider that needs a new session has not moved for a while
let pictures = 0; // that are being prepared

// What speaks: one thing at a time, null when there is none. The kinds are "text", "sound" and "microphone".
let source = null;
let interrupting = false; // segments that are told of before the answer are of the past

// ---------------------------------------------------------------------------------------------------------------- the session

function connect() {
  clearTimeout(settled);
  leaveSource();
  Object.assign(session, { connecting: true, status: null, stale: false });
  interrupting = false;
  element("lost").hidden = true;
  const controls = Object.fromEntries(strengths.map((name) => [name, strength(name)]));
  show();
  live.open({ avatar: portraits.chosen, audio_rate: RATE_HZ, video: "jpeg", controls });
}

function opened({ delay_seconds: delay }) {
  Object.assign(session, { connecting: false, delay });
  player.begin();
  show();
}

function lost(words) {
  session.connecting = false;
  leaveSource();
  complain(new Problem(words));
  element("lost").hidden = false;
  show();
}

function sound(packet) {
  if (interrupting) {
    return;
  }
  player.sound(packet);
  if (source !== null && packet.speech) {
    source.last = packet.seconds;
  } else if (source?.complete && packet.seconds - source.last > OVER_SECONDS) {
    finish(source); // the message that says so went with packets that were dropped
  }
  sendMore();
}

function segment({ state, time }) {
  if (interrupting || source === null) {
    return;
  }
  const spoken = source;
  if (state === "started") {
    spoken.begun ??= time;
    player.at(time, () => {
      spoken.speaking = true;
      show();
    });
  } else {
    player.at(time, () => {
      spoken.speaking = false;
      if (spoken.complete) {
        finish(spoken);
      }
      show();
    });
  }
}

function interrupted({ time }) {
  interrupting = false;
  player.forget(time);
}

function status(message) {
  const before = session.status ?? message;
  session.status = message;
  const grown = (name) => message[name] - before[name];
  if (grown("lost") > 0) {
    trouble("The server is too busy: the portrait paused for a moment.");
  } else if (grown("left_out") >= NOTICED) {
    trouble("The server is busy: it leaves some pictures out.");
  } else if (grown("dropped") >= NOTICED) {
    trouble("The connection is slow: some pictures are lost.");
  } else if (grown("underruns") > 0) {
    trouble("The speech paused: it came too slowly.");
  }
  if (source?.kind === "microphone") {
    source.surplus = message.buffered > MOST_BEHIND_SECONDS ? message.buffered - MOST_BEHIND_SECONDS / 2 : 0;
  }
  show();
}

// ------------------------------------------------------------------------------------------------------------------- the speech

/** Silence whatever speaks, and let something else do so. Null where there is no session. */
function begin(kind) {
  player.turnSoundOn();
  if (!live.connected) {
    complain(new Problem("There is no connection to the server. Reconnect first."));
    return null;
  }
  silence();
  dismiss();
  source = { kind, complete: false, speaking: false };
  show();
  return source;
}

/** Stop what speaks. */
function silence() {
  if (source !== null && live.send({ type: "interrupt" })) {
    interrupting = true;
    player.hush();
  }
  leaveSource();
}

function leaveSource() {
  source?.close?.();
  source = null;
  player.muted = false;
  show();
}

/** Nothing speaks any more: what had to wait for that is done. */
function rest() {
  leaveSource();
  if (session.stale && live.connected) {
    connect();
  }
}

function finish(spoken) {
  if (spoken === source) {
    rest();
  }
}

/** What went wrong with what was just sent: it will not be spoken. */
function refused(words) {
  if (source?.kind === "text" && source.begun === undefined) {
    rest();
  }
  complain(new Problem(words));
}

function speakText() {
  const text = element("text").value.trim();
  if (text === "") {
    complain(new Problem("There is no text yet. Type what the portrait should say."));
    element("text").focus();
    return;
  }
  const voice = element("voice").value;
  video.speakText(text, voice);
  const spoken = begin("text");
  if (spoken !== null) {
    spoken.complete = true;
    live.send({ type: "say", text, voice });
  }
}

async function speakSound(file) {
  video.speakSound(file);
  const spoken = begin("sound");
  if (spoken === null) {
    return;
  }
  try {
    const samples = await decodeSound(file, RATE_HZ);
    Object.assign(spoken, { samples, sent: 0 });
    sendMore();
  } catch (error) {
    video.speakText(element("text").value.trim(), element("voice").value);
    finish(spoken);
    complain(error);
  }
}

/** As much of a sound file as may wait to be heard. Called with every packet: timers are slow in the background. */
function sendMore() {
  if (source?.samples === undefined || source.complete) {
    return;
  }
  const heard = source.begun === undefined ? 0 : Math.max(0, player.seconds - source.begun);
  const most = Math.round((heard + AHEAD_SECONDS) * RATE_HZ);
  const { samples } = source;
  while (source.sent < Math.min(most, samples.length)) {
    const end = source.sent + Math.round(PIECE_SECONDS * RATE_HZ);
    live.sendSound(samples.slice(source.sent, end));
    source.sent = Math.min(end, samples.length);
  }
  if (source.sent === samples.length) {
    source.complete = true;
    live.send({ type: "end_of_segment" });
  }
}

async function switchMicrophone() {
  if (source?.kind === "microphone" && !source.complete) {
    finishMicrophone();
    return;
  }
  const spoken = begin("microphone");
  if (spoken === null) {
    return;
  }
  muteOwnVoice();
  try {
    const gone = () => spoken === source && finishMicrophone("The microphone was taken away.");
    const close = await openMicrophone(RATE_HZ, (piece) => hear(spoken, piece), gone);
    if (spoken === source) {
      spoken.close = close;
      show();
    } else {
      close(); // something else speaks by now
    }
  } catch (error) {
    finish(spoken);
    complain(error);
  }
}

function hear(spoken, { samples, peak }) {
  if (spoken !== source || spoken.complete) {
    return;
  }
  element("level").style.setProperty("--level", Math.min(1, Math.sqrt(peak)).toFixed(2));
  if (spoken.surplus > 0 && peak < QUIET) {
    spoken.surplus -= samples.length / RATE_HZ;
    return;
  }
  spoken.heard = true;
  live.sendSound(samples);
}

/** Listen no more; what was heard is still spoken to its end. */
function finishMicrophone(words) {
  source.close?.();
  source.close = null;
  source.complete = true;
  live.send({ type: "end_of_segment" });
  if (!source.heard) {
    finish(source);
  }
  if (words !== undefined) {
    complain(new Problem(words));
  }
  show();
}

/** A voice that comes back from the loudspeaker half a second later is hard to speak against. */
function muteOwnVoice() {
  player.muted = source?.kind === "microphone" && !element("own-voice").checked;
}

// --------------------------------------------------------------------------------------------------------------- what is shown

function stateWords() {
  if (!live.connected) {
    return session.connecting ? "Connecting…" : "Not connected";
  }
  if (pictures > 0) {
    return "Preparing the picture…";
  }
  if (source === null) {
    return "Ready";
  }
  if (source.kind === "microphone" && !source.complete) {
    return source.close === undefined ? "Waiting for the microphone…" : "Listening to you";
  }
  return source.speaking ? "Speaking" : "About to speak…";
}

function delayWords() {
  if (!live.connected) {
    return "";
  }
  const waiting = source?.kind === "microphone" ? (session.status?.buffered ?? 0) : 0;
  const seconds = session.delay + session.trip + player.delaySeconds + waiting;
  const words = `about ${seconds.toFixed(1)} s`;
  return source?.kind === "microphone" ? `The portrait is ${words} behind you.` : `Speech is heard ${words} after it is sent.`;
}

/** Only what changed is written: a screen reader says it again otherwise. */
function write(id, words) {
  if (element(id).textContent !== words) {
    element(id).textContent = words;
  }
}

function show() {
  const listening = source?.kind === "microphone" && !source.complete;
  write("state", stateWords());
  if (session.trouble === undefined) {
    write("delay", delayWords());
  }
  if (live.connected) {
    document.body.dataset.state = source === null ? "ready" : "speaking";
  } else {
    document.body.dataset.state = session.connecting ? "connecting" : "lost";
  }
  element("microphone").setAttribute("aria-pressed", String(listening));
  if (!listening) {
    element("level").style.setProperty("--level", "0");
  }
  const stop = element("stop");
  if (source === null && document.activeElement === stop) {
    element("text").focus(); // a button that cannot be pressed loses the keyboard
  }
  stop.disabled = source === null;
}

function trouble(words) {
  clearTimeout(session.trouble);
  write("delay", words);
  session.trouble = setTimeout(() => {
    session.trouble = undefined;
    show();
  }, 1000 * TROUBLE_SECONDS);
}

function preparing(busy) {
  pictures += busy ? 1 : -1;
  element("add").classList.toggle("busy", pictures > 0);
  show();
}

function showSoundButton(audible) {
  element("sound-on").hidden = audible;
}

function complain(error) {
  if (!(error instanceof Problem)) {
    console.error(error);
  }
  element("problem-words").textContent = error instanceof Problem ? error.message : `Something went wrong: ${error.message}`;
  element("problem").hidden = false;
}

function dismiss() {
  element("problem").hidden = true;
  element("problem-words").textContent = "";
}

// ------------------------------------------------------------------------------------------------------------ what the user does

function take(files) {
  try {
    for (const file of files) {
      if (kindOf(file) === "picture") {
        dismiss();
        portraits.add(file);
      } else {
        speakSound(file);
      }
    }
  } catch (error) {
    complain(error);
  }
}

function videoFields() {
  const controls = Object.fromEntries(strengths.map((name) => [name, strength(name)]));
  return { name: portraits.name, avatar_id: portraits.chosen, ...controls };
}

function changeStrength(name) {
  element(`${name}-value`).textContent = strength(name).toFixed(1);
  if (name !== "blink") {
    live.send({ type: "controls", [name]: strength(name) });
    return;
  }
  // Blinks are planned when a session begins.
  clearTimeout(settled);
  settled = setTimeout(() => {
    if (live.connected && source === null) {
      connect();
    } else {
      session.stale = true;
    }
  }, 1000 * SETTLED_SECONDS);
}

function resetStrengths() {
  for (const name of strengths.filter((each) => strength(each) !== 1)) {
    element(name).value = 1;
    changeStrength(name);
  }
}

element("speak").addEventListener("submit", (event) => {
  event.preventDefault();
  speakText();
});
element("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    speakText();
  }
});
for (const id of ["text", "voice"]) {
  element(id).addEventListener("input", () => video.speakText(element("text").value.trim(), element("voice").value));
}
element("stop").addEventListener("click", () => {
  silence();
  rest();
});
element("microphone").addEventListener("click", switchMicrophone);
element("own-voice").addEventListener("change", muteOwnVoice);
element("sound-on").addEventListener("click", () => player.turnSoundOn());
element("reconnect").addEventListener("click", () => {
  dismiss();
  connect();
  element("text").focus();
});
element("dismiss").addEventListener("click", dismiss);
element("reset").addEventListener("click", resetStrengths);
strengths.forEach((name) => element(name).addEventListener("input", () => changeStrength(name)));
acceptFiles(take);

// Where sound is allowed from the beginning, it takes a moment to start: the button would flash.
setTimeout(() => showSoundButton(player.audible), 1000 * STARTING_SECONDS);
connect();
portraits.show().catch(complain);
