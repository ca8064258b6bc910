// Draws the histograms and the scatter, sorts and searches concepts, reckons what another amount would keep.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const digits = (x) => (x === null ? "–" : String(Number(x.toPrecision(4))));
  const percent = (x) => `${(100 * x).toFixed(1)}\u00a0%`;
  const sum = (list) => list.reduce((a, b) => a + b, 0);
  const state = {}; // by cut: {scale, moved: null or {threshold}}

  function layout(more) {
    const axis = {
      gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, fixedrange: true, automargin: true,
      tickcolor: colour("--line"),
    };
    return {
      margin: { l: 52, r: 8, t: 26, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: 12, color: colour("--soft") },
      showlegend: false, dragmode: false, separators: ".,",
      hoverlabel: { bgcolor: colour("--sheet"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
    };
  }
  const config = { displayModeBar: false, responsive: true };

  // ---- histograms ----
  function drawHistogram(name) {
    const h = data.histograms[name], fine = h.kept.length;
    const { scale, moved } = state[name];
    const width = (h.high - h.low || 1) / fine;
    let kept = h.kept, dropped = h.dropped;
    if (moved) {
      const all = h.kept.map((n, i) => n + h.dropped[i]);
      const stays = all.map((n, i) => {
        const below = Math.min(1, Math.max(0, (moved.threshold - (h.low + i * width)) / width));
        return n * (h.lowest ? below : 1 - below);
      });
      kept = stays;
      dropped = all.map((n, i) => n - stays[i]);
    }
    const step = fine / (sum(h.kept) + sum(h.dropped) < 20000 ? 64 : 128);
    const joined = (list) => Array.from({ length: fine / step }, (_, i) => sum(list.slice(i * step, (i + 1) * step)));
    const x = Array.from({ length: fine / step }, (_, i) => h.low + (i + 0.5) * step * width);
    const bars = (list, label, hue) => ({
      type: "bar", x, y: joined(list), width: step * width, name: label, marker: { color: colour(hue), line: { width: 0 } },
      hovertemplate: `%{x:.4g}: %{y:,.0f} ${label}<extra></extra>`,
    });
    const at = moved ? moved.threshold : h.threshold;
    const lines = at === null ? [] : [{
      type: "line", x0: at, x1: at, y0: 0, y1: 1, yref: "paper",
      line: { color: colour("--mark"), width: 1.5, dash: moved ? "dot" : "solid" },
    }];
    const notes = at === null ? [] : [{
      x: at, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { color: colour("--ink") },
      text: `${moved ? "about " : ""}${digits(at)}`,
    }];
    const logs = scale === "log" ? { type: "log", dtick: 1 } : { rangemode: "tozero" };
    const pieces = [bars(kept, "kept", "--kept"), bars(dropped, "dropped", "--dropped")];
    const axes = { yaxis: { title: { text: "samples" }, ...logs }, xaxis: { showgrid: false } };
    const form = layout({ barmode: "stack", bargap: 0, shapes: lines, annotations: notes, ...axes });
    Plotly.react(`histogram-${name}`, pieces, form, config);
  }

  // ---- scatter ----
  function drawScatter(name) {
    const s = data.scatters[name], shares = state[name].shares;
    const most = Math.max(...s.size);
    const chosen = state[name].chosen;
    const trace = {
      type: "scatter", mode: "markers", x: s.complexity,
      y: s.cluster.map((j, i) => 100 * (shares ? shares[j] : s.kept_share[i])),
      customdata: s.cluster, text: s.name.map((text, i) => `${text}<br>${whole.format(s.size[i])} samples`),
      hovertemplate: "%{text}<br>complexity %{x:.4f}<br>%{y:.1f} % kept<extra></extra>",
      marker: {
        size: s.size.map((n) => 6 + 20 * Math.sqrt(n / most)), color: colour("--kept"),
        opacity: s.cluster.map((j) => (j === chosen ? 1 : 0.55)),
        line: { width: s.cluster.map((j) => (j === chosen ? 2 : 0)), color: colour("--mark") },
      },
    };
    const axes = {
      xaxis: { title: { text: "complexity" } },
      yaxis: { title: { text: "share kept", standoff: 14 }, ticksuffix: " %", range: [-6, 112], dtick: 25 },
    };
    Plotly.react(`scatter-${name}`, [trace], layout({ ...axes, margin: { l: 76, r: 8, t: 10, b: 42 } }), config);
  }

  // ---- concepts: open, sort, search ----
  function open(name, cluster, jump) {
    const panel = document.getElementById(`concept-${name}-${cluster}`);
    if (!panel) return;
    for (const other of document.querySelectorAll(`.concept[data-of="${name}"]`)) other.hidden = other !== panel;
    for (const row of document.querySelectorAll(`#concepts-${name} tbody tr`)) {
      const mine = row.dataset.cluster === String(cluster), button = row.querySelector(".open");
      row.classList.toggle("chosen", mine);
      if (button) button.setAttribute("aria-expanded", String(mine));
    }
    state[name].chosen = cluster;
    drawScatter(name);
    if (jump) panel.focus();
  }

  function sortable(name) {
    const table = document.getElementById(`concepts-${name}`), body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = column > 0 ? head.getAttribute("aria-sort") !== "descending" : head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.v;
      const rows = [...body.rows].sort((a, b) => column ? value(a) - value(b) : value(a).localeCompare(value(b)));
      body.append(...(down ? rows.reverse() : rows));
    }));
    body.addEventListener("click", (event) => {
      const button = event.target.closest(".open");
      if (button) open(name, Number(button.closest("tr").dataset.cluster), true);
    });
    const search = document.querySelector(`[data-search="${name}"]`), told = document.querySelector(`[data-found="${name}"]`);
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      let found = 0;
      for (const row of body.rows) {
        row.hidden = !row.cells[0].dataset.v.toLowerCase().includes(wanted);
        found += !row.hidden;
      }
      told.textContent = wanted ? `${whole.format(found)} found` : "";
    });
    const canvas = document.getElementById(`scatter-${name}`);
    canvas.on("plotly_click", (event) => open(name, event.points[0].customdata, false));
    const first = document.querySelector(`.concept[data-of="${name}"]:not([hidden])`);
    if (first) open(name, Number(first.id.split("-").pop()), false);
  }

  // ---- what if ----
  function thresholdOf(h, share) {
    const all = h.kept.map((n, i) => n + h.dropped[i]), width = (h.high - h.low || 1) / all.length;
    let left = share * sum(all);
    for (let k = 0; k < all.length; k++) {
      const i = h.lowest ? k : all.length - 1 - k;
      if (all[i] > 0 && left <= all[i]) {
        const part = left / all[i];
        return h.low + (h.lowest ? i + part : i + 1 - part) * width;
      }
      left -= all[i];
    }
    return h.lowest ? h.high : h.low;
  }

  // the quotas of stages/quota.py but for their rounding: clip(total · share − nu, lower, size) of sum `total`
  function quotas(s, total) {
    const k = s.size.length;
    let lower = s.size.map((m) => Math.max(0, Math.min(s.balance ? Math.floor((total / k) * s.balance) : 1, m - 1)));
    if (sum(lower) > total) lower = lower.map(() => 0);
    const at = (nu) => s.size.map((m, j) => Math.min(m, Math.max(lower[j], total * s.share[j] - nu)));
    let low = -Math.max(...s.size, total), high = total;
    for (let turn = 0; turn < 80; turn++) {
      const middle = (low + high) / 2;
      if (sum(at(middle)) >= total) low = middle; else high = middle;
    }
    return at((low + high) / 2);
  }

  function slider(form) {
    const name = form.dataset.slider, s = data.sliders[name], input = form.querySelector("input");
    const out = (what, text) => { const to = form.querySelector(`[data-out="${what}"]`); if (to) to.textContent = text; };
    const reset = form.querySelector("[data-reset]"), ran = s.came ? s.kept / s.came : 0;
    const before = Object.fromEntries([...form.querySelectorAll("[data-out]")].map((x) => [x.dataset.out, x.textContent]));
    const full = (list) => `${whole.format(list.filter((q, j) => s.size[j] > 0 && q >= s.size[j] - 0.5).length)} of ${whole.format(s.size.length)}`;
    if (s.size) before.whole = full(quotas(s, s.kept));

    function show(share) {
      const moved = share !== null, kept = moved ? Math.floor(share * s.came + 1e-9) : s.kept;
      reset.disabled = !moved;
      state[name].moved = null;
      state[name].shares = null;
      if (!moved) {
        Object.entries(before).forEach(([what, text]) => out(what, text));
      } else {
        out("share", percent(share));
        out("kept", whole.format(kept));
        out("dropped", whole.format(s.came - kept));
        let end = kept;
        for (const cut of s.later) {
          end = Math.min(end, "count" in cut ? cut.count : "pool" in cut ? cut.pool * data.pool : cut.share * end);
        }
        out("end", s.later.length ? `about ${whole.format(end)}` : whole.format(kept));
        const fraction = s.of === "pool" ? kept / data.pool : share;
        out("set", `--set ${s.path}=${Number(fraction.toFixed(4))}`);
        if (s.size) {
          const found = quotas(s, kept);
          state[name].shares = found.map((q, j) => (s.size[j] ? q / s.size[j] : 0));
          out("whole", full(found));
        } else {
          state[name].moved = { threshold: thresholdOf(data.histograms[name], share) };
          out("threshold", `about ${digits(state[name].moved.threshold)}`);
        }
      }
      if (s.size && data.scatters[name]) drawScatter(name);
      if (!s.size) drawHistogram(name);
    }
    input.value = ran;
    if (s.size) out("whole", before.whole);
    input.addEventListener("input", () => show(Number(input.value)));
    reset.addEventListener("click", () => { input.value = ran; show(null); input.focus(); });
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // ---- start ----
  const names = new Set([...Object.keys(data.histograms), ...Object.keys(data.scatters), ...Object.keys(data.sliders)]);
  names.forEach((name) => { state[name] = { scale: "linear", moved: null, shares: null, chosen: null }; });
  const drawAll = () => {
    Object.keys(data.histograms).forEach(drawHistogram);
    Object.keys(data.scatters).forEach(drawScatter);
  };
  drawAll();
  Object.keys(data.scatters).forEach(sortable);
  document.querySelectorAll("[data-slider]").forEach(slider);
  document.querySelectorAll("[data-scale]").forEach((radio) => radio.addEventListener("change", () => {
    state[radio.dataset.scale].scale = radio.value;
    drawHistogram(radio.dataset.scale);
  }));
  dark.addEventListener("change", drawAll);
  document.documentElement.dataset.ready = "yes";
})();
