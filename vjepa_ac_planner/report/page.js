// The page reads without this script; it adds the player and keeps charts and images on the same step.
(() => {
  const steps = [...document.querySelectorAll(".sheet figure")];
  const player = document.querySelector(".player");
  if (!player) return;
  const slider = player.querySelector("input");
  const button = player.querySelector("button");
  const stage = player.querySelector(".stage");
  const numbers = player.querySelector(".now");
  let timer = null;

  const show = (k) => {
    slider.value = k;
    steps.forEach((figure, i) => figure.classList.toggle("active", i === k));
    stage.replaceChildren(steps[k].querySelector(".view").cloneNode(true));
    numbers.replaceChildren(...[...steps[k].querySelector(".detail").children].map((part) => part.cloneNode(true)));
    const goal = document.getElementById(steps[k].dataset.goal ?? "goal");
    player.querySelector(".goal").replaceChildren(...goal.cloneNode(true).children);
    const at = +(steps[k].dataset.at ?? k); // where not every step has a picture
    document.querySelectorAll("svg .cursor").forEach((line) => {
      const x = Math.min(+line.dataset.first + at * +line.dataset.step, +line.dataset.last);
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    });
    const planned = Math.min(k, steps.length - 2);
    document.querySelectorAll("svg .series[data-step]").forEach((line) => {
      line.classList.toggle("active", +line.dataset.step === planned);
    });
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const play = () => {
    if (+slider.value === steps.length - 1) show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      const k = +slider.value + 1;
      if (k < steps.length) show(k);
      if (k >= steps.length - 1) stop();
    }, 700);
  };

  slider.max = steps.length - 1;
  slider.addEventListener("input", () => { stop(); show(+slider.value); });
  button.addEventListener("click", () => (timer ? stop() : play()));
  steps.forEach((figure, i) => figure.addEventListener("click", () => { stop(); show(i); }));
  player.hidden = false;
  show(0);
})();
