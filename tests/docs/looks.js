// What is wrong with the page as it is shown: a list of sentences. Evaluated in the page by tests/docs/test_site.py.
(() => {
  const wrong = [];
  const say = (element) => {
    const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
    return `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") || ""}"> ${text}`;
  };

  // ------------------------------------------------ nothing overflows

  const scrolls = (element) => {
    for (let each = element; each && each !== document.body; each = each.parentElement) {
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(each).overflowX)) return true;
    }
    return false;
  };
  if (document.documentElement.scrollWidth > innerWidth) {
    wrong.push(`the page is ${document.documentElement.scrollWidth} pixels wide, the window ${innerWidth}`);
  }
  for (const element of document.querySelectorAll(".md-content *, .md-header *, .md-footer *")) {
    const box = element.getBoundingClientRect();
    const hidden = !box.width || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (hidden || element.closest(".md-search, svg") || scrolls(element)) continue;
    if (box.right > innerWidth + 1 || box.left < -1) wrong.push(`reaches out of the window: ${say(element)}`);
  }

  // ------------------------------------------------ pictures: no text outside of one, on other text, or too small

  for (const picture of document.querySelectorAll("svg.picture")) {
    const frame = picture.viewBox.baseVal;
    const texts = [...picture.querySelectorAll("text")];
    const boxes = texts.map((text) => text.getBBox());
    texts.forEach((text, number) => {
      const box = boxes[number];
      if (box.x < 0 || box.y < 0 || box.x + box.width > frame.width || box.y + box.height > frame.height + 2) {
        wrong.push(`outside of its picture: ${say(text)}`);
      }
      boxes.slice(0, number).forEach((other, before) => {
        const across = Math.min(box.x + box.width, other.x + other.width) - Math.max(box.x, other.x);
        const down = Math.min(box.y + box.height, other.y + other.height) - Math.max(box.y, other.y);
        if (across > 1 && down > 4) wrong.push(`lies on other text: ${say(text)} / ${say(texts[before])}`);
      });
      // A rectangle that it begins in, it also ends in.
      for (const rect of picture.querySelectorAll("rect.box")) {
        const edge = rect.getBBox();
        const inside = box.x >= edge.x && box.x < edge.x + edge.width && box.y + 8 > edge.y && box.y + 8 < edge.y + edge.height;
        if (inside && box.x + box.width > edge.x + edge.width - 3) wrong.push(`runs out of its box: ${say(text)}`);
      }
      const shown = parseFloat(getComputedStyle(text).fontSize) * (picture.getBoundingClientRect().width / frame.width);
      if (shown < 9.5) wrong.push(`only ${shown.toFixed(1)} pixels high: ${say(text)}`);
    });
  }

  // ------------------------------------------------ contrast, by WCAG 2.1 (4.5, large text 3)

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((each) => top[each] * top[3] + below[each] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found[3] > 0) layers.push(found);
      if (found[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (rgb) => {
    const [red, green, blue] = rgb.map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [less, more] = [light(one), light(other)].sort((a, b) => a - b);
    return (more + 0.05) / (less + 0.05);
  };
  const under = (text, picture) => {
    const box = text.getBBox();
    let found = behind(picture.parentElement);
    for (const rect of picture.querySelectorAll("rect")) {
      const edge = rect.getBBox();
      const middle = [box.x + box.width / 2, box.y + box.height / 2];
      if (middle[0] > edge.x && middle[0] < edge.x + edge.width && middle[1] > edge.y && middle[1] < edge.y + edge.height) {
        found = over(colour(getComputedStyle(rect).fill), found);
      }
    }
    return found;
  };
  const seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, noscript, .md-search, [hidden]")) continue;
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const style = getComputedStyle(element);
    const picture = element.closest("svg.picture");
    const [front, back] = picture
      ? [style.fill, under(element.closest("text"), picture)]
      : [style.color, behind(element)];
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = contrast(over(colour(front), back), back);
    const where = `${front} on ${back.slice(0, 3).map(Math.round)}`;
    if (ratio < (large ? 3 : 4.5) && !seen.has(where)) {
      seen.add(where);
      wrong.push(`contrast ${ratio.toFixed(2)}, ${where}: ${say(element)}`);
    }
  }

  // ------------------------------------------------ headings, languages, names

  const headings = [...document.querySelectorAll(".md-content :is(h1, h2, h3, h4, h5, h6)")];
  const levels = headings.map((each) => Number(each.tagName[1]));
  if (levels.filter((each) => each === 1).length !== 1 || levels[0] !== 1) wrong.push(`headings begin with ${levels.slice(0, 3)}`);
  levels.forEach((level, number) => {
    if (number && level > levels[number - 1] + 1) wrong.push(`skips a level: ${say(headings[number])}`);
  });
  if (!document.documentElement.lang) wrong.push("the page does not say its language");
  for (const each of document.querySelectorAll("img:not([alt]), svg.picture:not([aria-label])")) {
    wrong.push(`has no description: ${say(each)}`);
  }

  // ------------------------------------------------ nothing comes from elsewhere

  for (const entry of performance.getEntriesByType("resource")) {
    if (!entry.name.startsWith(location.origin)) wrong.push(`comes from elsewhere: ${entry.name}`);
  }
  return wrong;
})();
