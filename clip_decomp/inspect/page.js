(function () {
  "use strict";
  var page = JSON.parse(document.getElementById("data").textContent);
  // Blue pushes away, orange toward; the weaker, the more of the picture is seen.
  var STOPS = [[0, 68, 136, 0.9], [0, 114, 178, 0.55], [255, 255, 255, 0], [213, 94, 0, 0.6], [140, 30, 0, 0.9]];
  var text = byId("text"), maps = byId("maps"), opacity = byId("opacity"), same = byId("same");
  var legend = byId("legend");
  legend.querySelector(".scale div").style.background =
    "linear-gradient(to right, " + STOPS.map(function (stop) { return "rgba(" + stop + ")"; }) + ")";

  function byId(id) { return document.getElementById(id); }

  function side() {
    var chosen = document.querySelector("input[name=side]:checked");
    return chosen ? chosen.value : "clean";
  }

  // What lies beyond the scale takes the last color.
  function color(share) {
    var place = (Math.max(-1, Math.min(1, share)) + 1) * (STOPS.length - 1) / 2;
    var low = Math.min(Math.floor(place), STOPS.length - 2), part = place - low;
    return STOPS[low].map(function (value, k) { return value + part * (STOPS[low + 1][k] - value); });
  }

  function drawMap(rows, factor) {
    var canvas = document.createElement("canvas");
    canvas.width = rows[0].length;
    canvas.height = rows.length;
    var context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    rows.forEach(function (row, i) {
      row.forEach(function (steps, j) {
        var rgba = color(steps * factor), at = 4 * (i * canvas.width + j);
        for (var k = 0; k < 3; k++) { image.data[at + k] = Math.round(rgba[k]); }
        image.data[at + 3] = Math.round(255 * rgba[3]);
      });
    });
    context.putImageData(image, 0, 0);
    canvas.setAttribute("aria-hidden", "true");
    return canvas;
  }

  function element(tag, content) {
    var made = document.createElement(tag);
    made.textContent = content;
    return made;
  }

  function tile(shown, kind, factor) {
    var item = document.createElement("li"), picture = document.createElement("div"), image = document.createElement("img");
    image.src = page.pictures[kind][shown.number];
    image.alt = shown.name + ", " + kind + " picture " + shown.number;
    picture.className = "picture";
    picture.append(image);
    var caption = document.createElement("p");
    caption.append(element("b", shown.push), " ", element("span", shown.name));
    if (maps.checked) {
      picture.append(drawMap(shown.map, factor));
      caption.append(element("small", "off patches " + shown.rest));
    }
    item.append(picture, caption);
    return item;
  }

  function fixed(value) {
    var digits = Math.max(0, 2 - Math.floor(Math.log10(value)));
    return value.toFixed(Math.min(digits, 12));
  }

  function show() {
    var view = page.views[text.value], kind = side(), found = view[kind];
    var other = kind === "clean" ? view.triggered : view.clean, shared = same && same.checked;
    var end = shared ? Math.max(found.end, other.end) : found.end;
    ["most", "least"].forEach(function (which) {
      var list = byId(which);
      list.replaceChildren.apply(list, found[which].map(function (shown) { return tile(shown, kind, found.step / end); }));
      list.classList.toggle("mapped", maps.checked);
    });
    byId("state").textContent = "“" + view.text + "”, " + kind + " pictures: mean push over all of them " + found.mean +
      ", standard deviation " + found.std + ".";
    byId("low").textContent = "−" + fixed(end);
    byId("high").textContent = "+" + fixed(end);
    var words = "Part of each patch in the push: blue away from the text, orange toward it.";
    if (found.strongest > end) { words += " Stronger patches, up to " + fixed(found.strongest) + ", take the last color."; }
    if (shared) {
      words += " Clean and triggered pictures of this text share this scale.";
    } else if (other) {
      words += " On " + (kind === "clean" ? "triggered" : "clean") + " pictures the scale ends at ±" + fixed(other.end) + ".";
    }
    byId("explanation").textContent = words + " What is off the patches came through other tokens, such as the class token.";
    legend.hidden = !maps.checked;
    opacity.disabled = !maps.checked;
    if (same) { same.disabled = !maps.checked; }
  }

  function strength() {
    document.documentElement.style.setProperty("--strength", opacity.value / 100);
    byId("percent").textContent = opacity.value + " %";
  }

  byId("controls").addEventListener("change", show);
  byId("controls").addEventListener("submit", function (event) { event.preventDefault(); });
  opacity.addEventListener("input", strength);
  document.querySelectorAll("button.text").forEach(function (button) {
    button.addEventListener("click", function () {
      var kind = document.querySelector("input[name=side][value=" + button.dataset.side + "]");
      if (kind) { kind.checked = true; }
      text.value = button.dataset.view;
      show();
      byId("pictures").scrollIntoView();
      text.focus({ preventScroll: true });
    });
  });
  strength();
  show();
})();
