// The card that makes an MP4 of what was spoken last.

import { makeVideo } from "./api.js";

const element = (id) => document.getElementById(id);

export class VideoCard {
  #speech = null; // {fields, words}: what would be spoken, for the server and for the reader
  #wanted;
  #told;
  #work = null; // AbortController of what is being made
  #url = null;

  /** `wanted` gives the portrait and its strengths as the server's fields; `told` is called with problems. */
  constructor(wanted, told) {
    this.#wanted = wanted;
    this.#told = told;
    element("make").addEventListener("click", () => this.#make());
    element("cancel").addEventListener("click", () => this.#work.abort());
  }

  speakText(text, voice) {
    const shown = text.length > 40 ? `${text.slice(0, 40).trimEnd()}…` : text;
    this.#take(text === "" ? null : { fields: { text, voice }, words: `The text “${shown}”` });
  }

  speakSound(file) {
    this.#take({ fields: { audio_reference: file }, words: `The sound “${file.name}”` });
  }

  #take(speech) {
    this.#speech = speech;
    this.#show();
  }

  #show() {
    const making = this.#work !== null;
    element("video-speech").textContent =
      this.#speech === null ? "Type a text or choose a sound file first." : `${this.#speech.words}, with this portrait.`;
    element("make").hidden = making;
    element("make").disabled = this.#speech === null;
    element("making").hidden = !making;
    element("save").hidden = making || this.#url === null;
  }

  async #make() {
    const { name, ...fields } = { ...this.#wanted(), ...this.#speech.fields };
    this.#work = new AbortController();
    this.#progress(0, "queued");
    this.#show();
    element("cancel").focus();
    let next = "make";
    try {
      const video = await makeVideo(fields, (percent, status) => this.#progress(percent, status), this.#work.signal);
      this.#offer(video, name);
      next = "save";
    } catch (error) {
      if (error.name !== "AbortError") {
        this.#told(error);
      }
    }
    const focused = document.activeElement === element("cancel");
    this.#work = null;
    this.#show();
    if (focused) {
      element(next).focus(); // the button that had it is hidden
    }
  }

  #progress(percent, status) {
    element("progress").value = percent;
    element("progress-words").textContent = status === "queued" ? "Waiting for its turn…" : `Making the video: ${percent} %`;
  }

  #offer(video, name) {
    if (this.#url !== null) {
      URL.revokeObjectURL(this.#url);
    }
    this.#url = URL.createObjectURL(video);
    const megabytes = (video.size / 1e6).toFixed(1);
    Object.assign(element("save"), { href: this.#url, download: `${name}.mp4` });
    element("save-words").textContent = `Save MP4 (${megabytes} MB)`;
  }
}
