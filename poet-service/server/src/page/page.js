"use strict";
// Keeps a page up to date: asks for it again every few seconds, takes the parts that have changed, counts
// down, and adds the reader's own time to that in UTC.
(() => {
  const POLL_MS = 3000;
  const TIMEOUT_MS = 10000;
  const page = document.documentElement;
  // Of each part, what the server sent last: what is shown has the reader's times in it.
  const sent = new Map();
  // By how much the server's clock is ahead of the reader's.
  let ahead = Date.parse(page.dataset.now) - Date.now();

  const two = (great, small, unit) => (small ? `${great} ${small} ${unit}` : great);
  // As the server says it.
  function words(seconds) {
    const [minutes, hours, days] = [60, 3600, 86400].map(unit => Math.floor(seconds / unit));
    if (minutes === 0) return `${seconds} s`;
    if (hours === 0) return two(`${minutes} min`, seconds % 60, "s");
    if (days === 0) return two(`${hours} h`, minutes % 60, "min");
    return two(days === 1 ? "1 day" : `${days} days`, hours % 24, "h");
  }

  function countDown() {
    for (const part of document.querySelectorAll("[data-until]")) {
      const left = Math.floor((Date.parse(part.dataset.until) - Date.now() - ahead) / 1000);
      const text = left > 0 ? `in ${words(left)}` : "now";
      if (part.textContent !== text) part.textContent = text;
    }
  }

  function localTime(date) {
    const shown = {
      weekday: "short", day: "numeric", month: "short", year: "numeric",
      hour: "2-digit", minute: "2-digit", timeZoneName: "short",
    };
    if (date.getUTCSeconds() !== 0) shown.second = "2-digit";
    return new Intl.DateTimeFormat("en-GB", shown).format(date);
  }

  function addLocalTimes(part) {
    for (const time of part.querySelectorAll("time")) {
      const date = new Date(time.dateTime);
      // Where it is the same, once is enough.
      if (date.getTimezoneOffset() === 0) continue;
      const utc = document.createElement("span");
      utc.className = "utc";
      utc.textContent = `(${time.textContent})`;
      time.replaceChildren(localTime(date), " ", utc);
    }
  }

  // Parts that the script alone can fill: where the reader has found this page.
  function addAddresses(part) {
    const here = location.href.replace(/[^/]*$/, "").replace(/[?#].*$/, "");
    for (const place of part.querySelectorAll("[data-address]")) {
      place.textContent = here + place.dataset.address;
      if (place.dataset.address === "") place.textContent = here.replace(/\/$/, "");
    }
  }

  function addCopyButtons() {
    if (!navigator.clipboard) return;
    for (const place of document.querySelectorAll(".copy")) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(place.querySelector("pre").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      place.append(button);
    }
  }

  // On the operator's page: whether the server and this browser agree on the time.
  function compareClocks() {
    for (const part of document.querySelectorAll("[data-clock]")) {
      const seconds = Math.floor(Math.abs(ahead / 1000));
      part.textContent = seconds < 2 ? "by less than 2 s" : `by ${words(seconds)}`;
    }
  }

  async function update() {
    const stale = document.getElementById("stale");
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const response = await fetch(location.pathname, { signal });
      if (!response.ok) throw new Error(response.status);
      const next = new DOMParser().parseFromString(await response.text(), "text/html");
      if (!next.documentElement.dataset.now) throw new Error("another page");
      ahead = Date.parse(next.documentElement.dataset.now) - Date.now();
      document.title = next.title;
      for (const part of next.querySelectorAll("[data-live]")) {
        const shown = document.getElementById(part.id);
        if (!shown || sent.get(part.id) === part.innerHTML) continue;
        sent.set(part.id, part.innerHTML);
        shown.innerHTML = part.innerHTML;
        addLocalTimes(shown);
      }
      compareClocks();
      countDown();
      stale.hidden = true;
      page.dataset.updates = Number(page.dataset.updates ?? 0) + 1;
    } catch {
      stale.hidden = false;
    }
  }

  async function keepUpToDate() {
    for (;;) {
      await new Promise(resume => setTimeout(resume, POLL_MS));
      // Nobody looks.
      if (!document.hidden) await update();
    }
  }

  for (const part of document.querySelectorAll("[data-live]")) sent.set(part.id, part.innerHTML);
  for (const part of document.querySelectorAll("[data-scripts]")) part.hidden = false;
  addLocalTimes(document.body);
  addAddresses(document.body);
  addCopyButtons();
  compareClocks();
  countDown();
  setInterval(countDown, 1000);
  keepUpToDate();
})();
