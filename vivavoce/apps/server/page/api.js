// Requests to the server, and what goes wrong with them in words.

const UNNAMED = "portrait";
const token = new URLSearchParams(location.search).get("token");

/** Something that the user is told, in a sentence. */
export class Problem extends Error {}

/** The server writes its sentences without a capital letter and without a full stop. */
export function sentence(words) {
  const text = words.trim();
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** `fetch` with the page's token; a Problem where the server cannot be reached or says no. */
export async function request(path, options = {}) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    throw new Problem("The server cannot be reached. Is it running, and is the network there?", { cause: error });
  }
  if (!response.ok) {
    throw new Problem(await refusal(response));
  }
  return response;
}

async function refusal(response) {
  const text = await response.text();
  try {
    return sentence(JSON.parse(text).error.message);
  } catch {
    return `The server said no, without a reason (${response.status}).`; // a proxy's page, most likely
  }
}

/** The address of the live protocol. */
export function liveAddress() {
  const address = new URL("/v1/live", location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  if (token !== null) {
    address.searchParams.set("token", token);
  }
  return address.href;
}

/** The registered portraits, the demonstration first. */
export async function listAvatars() {
  return (await (await request("/v1/avatars")).json()).data;
}

/** A portrait's picture as a URL, to be revoked by whoever is done with it. */
export async function pictureUrl(avatar) {
  const response = await request(`/v1/avatars/${encodeURIComponent(avatar)}/picture`);
  return URL.createObjectURL(await response.blob());
}

/** Have the server prepare a picture; resolves to the avatar. */
export async function registerAvatar(file) {
  const form = new FormData();
  form.append("image_reference", file, file.name || "picture");
  form.append("name", file.name.replace(/\.[^.]*$/, "") || UNNAMED);
  form.append("crop", "true"); // its size is left to the server, which may allow less than others
  return (await request("/v1/avatars", { method: "POST", body: form })).json();
}

const POLL_SECONDS = 0.5;

/** Have the server make a video; resolves to its Blob. `told` is called with percents; aborting cancels the work there, too. */
export async function makeVideo(fields, told, signal) {
  const form = new FormData();
  Object.entries(fields).forEach(([name, value]) => form.append(name, value));
  let video = await (await request("/v1/videos", { method: "POST", body: form })).json();
  const path = `/v1/videos/${encodeURIComponent(video.id)}`;
  try {
    while (video.status === "queued" || video.status === "in_progress") {
      told(video.progress, video.status);
      await new Promise((resolve) => setTimeout(resolve, 1000 * POLL_SECONDS));
      signal.throwIfAborted();
      video = await (await request(path, { signal })).json();
    }
    if (video.status !== "completed") {
      throw new Problem(video.error === null ? "The video was cancelled." : sentence(video.error.message));
    }
    return await (await request(`${path}/content`, { signal })).blob();
  } finally {
    // The page has it now, or nobody wants it: the server need not keep it. Where this fails, the server forgets it in time.
    request(path, { method: "DELETE" }).catch((error) => console.info(error.message));
  }
}
