// Files that are chosen, dropped anywhere on the page, or pasted.

import { Problem } from "./api.js";

const PICTURES = /\.(jpe?g|png|webp|bmp|tiff?)$/i;
const SOUNDS = /\.(wav|mp3|m4a|aac|ogg|oga|opus|flac|webm|mp4|mov)$/i;

/** "picture" or "sound"; a Problem where a file is neither. */
export function kindOf(file) {
  if (file.type.startsWith("image/") || PICTURES.test(file.name)) {
    return "picture";
  }
  if (/^(audio|video)\//.test(file.type) || SOUNDS.test(file.name)) {
    return "sound";
  }
  throw new Problem(`“${file.name}” is neither a picture nor a sound. Give a JPEG, PNG or WebP, or a WAV, MP3 or M4A.`);
}

/** Call `take` with the files that the user gives, however that is done. */
export function acceptFiles(take) {
  for (const input of document.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length > 0) {
      event.preventDefault();
      take([...event.clipboardData.files]);
    }
  });
  acceptDrops(take);
}

function acceptDrops(take) {
  const hint = document.getElementById("drop");
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  let inside = 0; // elements that files are dragged over: one is entered before the one around it is left
  const move = (event, by) => {
    if (hasFiles(event)) {
      inside += by;
      hint.hidden = inside === 0;
    }
  };
  document.addEventListener("dragenter", (event) => move(event, 1));
  document.addEventListener("dragleave", (event) => move(event, -1));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (hasFiles(event)) {
      event.preventDefault();
      move(event, -inside);
      take([...event.dataTransfer.files]);
    }
  });
}
