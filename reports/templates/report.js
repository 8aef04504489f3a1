"use strict";
// Everything here is a convenience: with scripting off the page shows the same figures.
(function () {
  var all = function (selector, root) {
    return Array.prototype.slice.call((root || document).querySelectorAll(selector));
  };
  var plain = function (node) { return node.textContent.trim().replace(/\s+/g, " "); };

  // 1. Sliders over the measured points only; they read the tables, they compute nothing.
  var rows = all("#levels tr[data-point]");
  var inputs = all("input.level");
  var map = document.getElementById("token-map");
  var point = "";
  if (rows.length) {
    var heads = all("#levels thead th").map(plain);
    var pick = function (position) {
      var row = rows[position];
      point = row.dataset.point;
      var parts = all("th, td", row).map(function (cell, i) { return heads[i] + ": " + plain(cell); });
      inputs.forEach(function (input) {
        input.value = String(position);
        input.setAttribute("aria-valuetext", parts.join(" / "));
        document.getElementById(input.id + "-text").textContent = [parts[0], parts[1], parts[parts.length - 1]].join(" / ");
      });
      all("[data-point]").forEach(function (node) {
        node.classList.toggle("picked", node.dataset.point === point);
      });
      all("[data-column]").forEach(function (tile) {
        var copy = row.cells[Number(tile.dataset.column)].cloneNode(true);
        tile.textContent = "";
        while (copy.firstChild) { tile.appendChild(copy.firstChild); }
      });
      all(".passage").forEach(draw);
    };
    inputs.forEach(function (input) {
      input.addEventListener("input", function () { pick(Number(input.value)); });
      input.parentNode.hidden = false;
    });
  }

  // 2. Token maps: colours and counts of the picked setting, and a readout that follows the arrow keys.
  var columnOf = function (passage) {
    return all("thead th", passage).findIndex(function (head) { return head.dataset.point === point; });
  };
  var masksOf = function (passage) {
    var svg = passage.querySelector("svg[data-masks]");
    var heads = all("thead th[data-point]", passage);
    var place = heads.findIndex(function (head) { return head.dataset.point === point; });
    if (!svg || place < 0) { return null; }
    return svg.dataset.masks.split("|")[place].split(" ").map(function (mask) { return parseInt(mask, 16); });
  };
  var bit = function (mask, unit) { return Math.floor(mask / Math.pow(2, unit)) % 2 === 1; };
  function draw(passage) {
    var column = columnOf(passage);
    if (column < 0) { return; }
    var units = Number(map.dataset.units);
    var lines = all("tbody tr", passage);
    all(".tokens > span", passage).forEach(function (token, i) {
      var count = Number(lines[i].cells[column].textContent);
      token.querySelector("i").textContent = String(count);
      token.className = token.className.replace(/\bl\d\b/, "l" + Math.min(5, Math.ceil(count * 5 / units)));
    });
    var masks = masksOf(passage);
    if (masks) {
      var path = "";
      for (var unit = 0; unit < units; unit += 1) {
        for (var i = 0; i < masks.length; i += 1) {
          if (bit(masks[i], unit)) { path += "M" + i + " " + (units - 1 - unit) + "h1"; }
        }
      }
      passage.querySelector(".grid-cells").setAttribute("d", path);
    }
    if (passage.tell) { passage.tell(); }
  }
  all(".passage").forEach(function (passage) {
    var tokens = all(".tokens > span", passage);
    var lines = all("tbody tr", passage);
    var box = passage.querySelector(".tokens");
    var said = passage.querySelector(".said");
    if (!tokens.length || !lines.length) { return; }
    var at = -1;
    passage.tell = function () {
      if (at < 0) { return; }
      var names = all("thead th", passage).map(plain);
      var column = columnOf(passage);
      var cells = lines[at].cells;
      var parts = [0, 1, 2, column].filter(function (k) { return k >= 0 && plain(cells[k]); }).map(function (k) {
        return names[k] + ": " + plain(cells[k]);
      });
      var masks = masksOf(passage);
      if (masks) {
        var layers = map.dataset.layers.split(" ").filter(function (_, unit) { return bit(masks[at], unit); });
        parts.push(map.dataset.layerWord + ": " + (layers.join(", ") || "–"));
      }
      said.textContent = parts.join(" / ");
    };
    var move = function (to) {
      if (at >= 0) { tokens[at].classList.remove("here"); }
      at = Math.max(0, Math.min(tokens.length - 1, to));
      tokens[at].classList.add("here");
      passage.tell();
    };
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", plain(passage.querySelector("h4")) + ". " + said.dataset.hint);
    said.hidden = false;
    said.textContent = said.dataset.hint;
    box.addEventListener("focus", function () { if (at < 0) { move(0); } });
    box.addEventListener("keydown", function (event) {
      var to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (to !== undefined) { event.preventDefault(); move(to); }
    });
    tokens.forEach(function (token, i) { token.addEventListener("click", function () { move(i); }); });
  });
  if (rows.length && inputs.length) { pick(Number(inputs[0].defaultValue)); }

  // 3. Detail tables sort by the plain number behind each cell, or by their text.
  all("table[data-sortable]").forEach(function (table) {
    var titles = Array.prototype.slice.call(table.tHead.rows[0].cells);
    titles.forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        titles.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var body = table.tBodies[0];
        var key = function (row) {
          var cell = row.cells[column];
          var number = Number(cell.dataset.sort);
          return cell.dataset.sort && !isNaN(number) ? number : plain(cell);
        };
        Array.prototype.slice.call(body.rows).sort(function (a, b) {
          var x = key(a), y = key(b);
          var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return down ? -order : order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
  });

  // 4. A link into something folded unfolds it; printing unfolds everything and folds it again.
  window.addEventListener("hashchange", function () {
    var target = document.getElementById(location.hash.slice(1));
    for (var node = target; node; node = node.parentElement) { if (node.tagName === "DETAILS") { node.open = true; } }
    if (target) { target.scrollIntoView(); }
  });
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = all("details:not([open]):not(.values)");
    folded.forEach(function (node) { node.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (node) { node.open = false; });
  });
})();
