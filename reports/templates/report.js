"use strict";
// Everything here is a convenience: with scripting off the page shows the same figures.
(function () {
  // 1. A slider over the measured points only; it reads the sweep table, it computes nothing.
  var slider = document.querySelector(".slider");
  var rows = Array.prototype.slice.call(document.querySelectorAll("#sweep tr[data-point]"));
  if (slider && rows.length) {
    var input = slider.querySelector("input");
    var output = slider.querySelector("output");
    var heads = Array.prototype.map.call(document.querySelectorAll("#sweep thead th"), function (th) {
      return th.textContent.trim();
    });
    var pick = function () {
      var row = rows[Number(input.value)];
      var parts = Array.prototype.map.call(row.cells, function (cell, i) {
        return heads[i] + ": " + cell.textContent.trim().replace(/\s+/g, " ");
      });
      var text = parts.slice(0, 6).join(" / ");
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      document.querySelectorAll("[data-point]").forEach(function (node) {
        node.classList.toggle("picked", node.dataset.point === row.dataset.point);
      });
    };
    var start = rows.findIndex(function (row) { return row.classList.contains("m-chosen"); });
    input.value = String(start < 0 ? 0 : start);
    input.addEventListener("input", pick);
    slider.hidden = false;
    pick();
  }
  // 2. Detail tables sort by the plain number behind each cell, or by their text.
  document.querySelectorAll("table[data-sortable]").forEach(function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var body = table.tBodies[0];
        var key = function (row) {
          var cell = row.cells[column];
          var number = Number(cell.dataset.sort);
          return cell.dataset.sort && !isNaN(number) ? number : cell.textContent.trim();
        };
        Array.prototype.slice.call(body.rows).sort(function (a, b) {
          var x = key(a), y = key(b);
          var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
          return down ? -order : order;
        }).forEach(function (row) { body.appendChild(row); });
      });
    });
  });
  // 3. Print what is folded, and fold it again afterwards.
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    folded.forEach(function (node) { node.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (node) { node.open = false; });
  });
})();
