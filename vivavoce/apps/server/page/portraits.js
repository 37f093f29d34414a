// The row of portraits: choose one, add one, remove one.

import { listAvatars, pictureUrl, registerAvatar, request } from "./api.js";

export const DEMO = "demo";

/** The avatars with names that tell them apart: those that are called the same are numbered. */
function distinct(avatars) {
  const count = (name) => avatars.filter((avatar) => avatar.name === name).length;
  const seen = new Map();
  return avatars.map((avatar) => {
    const { name } = avatar;
    seen.set(name, (seen.get(name) ?? 0) + 1);
    return count(name) > 1 ? { ...avatar, name: `${name} ${seen.get(name)}` } : avatar;
  });
}

export class Portraits {
  #list = document.getElementById("portraits");
  #remove = document.getElementById("remove");
  #pictures = new Map(); // of avatars: object URLs
  #told;

  chosen = DEMO;
  name = "Demonstration";

  /** `told` has chosen(), busy(whether a picture is being prepared) and problem(error). */
  constructor(told) {
    this.#told = told;
    this.#remove.addEventListener("click", () => this.#forget());
  }

  /** Show what is registered. */
  async show() {
    const avatars = await listAvatars();
    if (!avatars.some(({ id }) => id === this.chosen)) {
      this.#choose(avatars[0]);
    }
    // One that cannot be read any more has no picture; it is shown without.
    await Promise.all(avatars.map(({ id }) => this.#fetch(id).catch((error) => console.info(error.message))));
    this.#list.replaceChildren(...distinct(avatars).map((avatar) => this.#tile(avatar)));
    this.#mark();
  }

  /** Have a picture prepared, and choose it. */
  async add(file) {
    this.#told.busy(true);
    try {
      const avatar = await registerAvatar(file);
      this.#choose(avatar);
      await this.show();
    } catch (error) {
      this.#told.problem(error);
    } finally {
      this.#told.busy(false);
    }
  }

  async #forget() {
    const gone = this.chosen;
    try {
      await request(`/v1/avatars/${encodeURIComponent(gone)}`, { method: "DELETE" });
      URL.revokeObjectURL(this.#pictures.get(gone));
      this.#pictures.delete(gone);
      await this.show();
      this.#list.querySelector("button").focus();
    } catch (error) {
      this.#told.problem(error);
    }
  }

  async #fetch(id) {
    if (!this.#pictures.has(id)) {
      this.#pictures.set(id, await pictureUrl(id));
    }
  }

  #choose({ id, name }) {
    this.chosen = id;
    this.name = name;
    this.#mark();
    this.#told.chosen();
  }

  #tile(avatar) {
    const picture = document.createElement("img");
    picture.alt = "";
    picture.draggable = false; // else it can be dropped onto the page as a new picture
    if (this.#pictures.has(avatar.id)) {
      picture.src = this.#pictures.get(avatar.id);
    }
    const button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.title = avatar.name;
    button.setAttribute("aria-label", avatar.name);
    button.dataset.id = avatar.id;
    button.append(picture);
    button.addEventListener("click", () => avatar.id !== this.chosen && this.#choose(avatar));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  #mark() {
    this.#remove.hidden = this.chosen === DEMO;
    for (const button of this.#list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.id === this.chosen));
    }
  }
}
