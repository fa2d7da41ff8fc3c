"use strict";
// Everything on the page works without this; it adds a playhead, silence for the others, and A/B.
const players = [...document.querySelectorAll("audio")];
for (const player of players) {
  const track = player.closest(".track");
  const wave = track.querySelector(".wave");
  const head = track.querySelector(".head");
  const share = Number(wave.dataset.share); // the picture may show more than the page plays
  const draw = () => {
    const length = player.duration || 1;
    head.style.left = `calc(${(player.currentTime / length) * share * 100}% - 1px)`;
    if (!player.paused) requestAnimationFrame(draw);
  };
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    track.classList.add("playing", "paused");
    draw();
  });
  player.addEventListener("pause", () => track.classList.remove("playing"));
  player.addEventListener("ended", () => track.classList.remove("paused"));
  player.addEventListener("seeked", draw);
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    const go = () => {
      const at = (event.clientX - box.left) / box.width / share;
      if (at > 1) return;
      player.currentTime = at * player.duration;
      player.play();
    };
    if (player.readyState > 0) go();
    else {
      player.addEventListener("loadedmetadata", go, { once: true });
      player.load();
    }
  });
}
for (const button of document.querySelectorAll(".switch")) {
  const set = [...button.closest(".row").querySelectorAll("audio")];
  if (set.length < 2) continue;
  let now = -1;
  button.hidden = false;
  set.forEach((player, index) => player.addEventListener("play", () => { now = index; }));
  button.addEventListener("click", () => {
    const from = set[now];
    const to = set[(now + 1) % set.length];
    const at = from && !from.ended ? from.currentTime : 0;
    const go = () => {
      to.currentTime = at < to.duration ? at : 0;
      to.play();
    };
    if (to.readyState > 0) go();
    else {
      to.addEventListener("loadedmetadata", go, { once: true });
      to.load();
    }
  });
}
