// Requests to the server, answered at once or as a stream, and its errors.

// A message for the user: a key of the page's texts, and the values for its placeholders.
export class Refusal extends Error {
  constructor(word, values = {}) {
    super(word);
    this.word = word;
    this.values = values;
  }
}

const KEY = "prelude.token";

// Kept while the browser's tab is open; sent with every request, as the server may ask for it.
export function useToken(token) {
  sessionStorage.setItem(KEY, token);
}

async function request(path, body, signal) {
  const token = sessionStorage.getItem(KEY);
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const options = body === undefined ? { headers } : {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...options, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("away");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Refusal(token === null ? "token" : "wrongToken");
  if (response.status === 503) throw new Refusal("busy");
  throw refusal(await response.json().catch(() => ({})), response.status);
}

function refusal(content, status) {
  return new Refusal("refused", { message: content.error?.message ?? status });
}

export async function ask(path, body, signal) {
  const response = await request(path, body, signal);
  return response.json();
}

// Yields the data of each event of a stream (server-sent events).
export async function* stream(path, body, signal) {
  const response = await request(path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("away");
    }
    if (part.done) return;
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") continue;
      const content = JSON.parse(data);
      if (content.error) throw refusal(content);
      yield content;
    }
  }
}
