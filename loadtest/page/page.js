'use strict';
// Fills each element with data-chart from the JSON in #charts. Colours "$name" are the page's variables --name.
(() => {
  const specs = JSON.parse(document.getElementById('charts').textContent);
  const plain = new Intl.NumberFormat('en', {maximumFractionDigits: 3});
  const short = new Intl.NumberFormat('en', {notation: 'compact', maximumFractionDigits: 1});
  const figure = (value) => Math.abs(value) >= 10000 ? short.format(value) : plain.format(value);
  const UNITS = {
    ms: (v) => v >= 1000 ? figure(v / 1000) + ' s' : figure(v) + ' ms',
    s: (v) => figure(v) + ' s',
    share: (v) => plain.format(100 * v) + ' %',
    per_s: (v) => figure(v) + '/s',
    money: (v) => '$' + figure(v),
    count: figure,
  };

  const GRID = {left: 6, right: 34, top: 14, bottom: 4, outerBoundsMode: 'same', outerBoundsContain: 'all'};

  function coloured(value, style) {
    if (typeof value === 'string' && value.startsWith('$')) return style.getPropertyValue('--' + value.slice(1)).trim();
    if (Array.isArray(value)) return value.map((each) => coloured(each, style));
    if (value && typeof value === 'object') {
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, coloured(each, style)]));
    }
    return value;
  }

  function axis(given, unit, style) {
    const muted = style.getPropertyValue('--muted').trim(), line = style.getPropertyValue('--line').trim();
    const label = {color: muted, hideOverlap: true};
    if (unit && given.type !== 'category') label.formatter = (value) => UNITS[unit](value);
    return {
      axisLine: {lineStyle: {color: line}}, axisTick: {show: false},
      splitLine: {show: given.type !== 'category', lineStyle: {color: line}}, minorSplitLine: {show: false},
      ...given, axisLabel: {...label, ...(given.axisLabel || {})},
    };
  }

  function option(spec, style) {
    const given = coloured(spec.option, style);
    const value = (name) => style.getPropertyValue('--' + name).trim();
    const unit = spec.units.y;
    return {
      animation: false, aria: {enabled: false},
      textStyle: {fontFamily: getComputedStyle(document.body).fontFamily, color: value('fg')},
      tooltip: {
        trigger: 'axis', confine: true, backgroundColor: value('card'), borderColor: value('line'),
        textStyle: {color: value('fg'), fontSize: 12}, valueFormatter: (v) => v == null ? '-' : UNITS[unit](v),
        axisPointer: {lineStyle: {color: value('muted')}, label: {show: false}},
      },
      ...given, grid: {...GRID, ...(given.grid || {})}, xAxis: axis(given.xAxis, spec.units.x, style), yAxis: axis(given.yAxis, unit, style),
    };
  }

  const shown = [];
  for (const element of document.querySelectorAll('[data-chart]')) {
    const chart = echarts.init(element, null, {renderer: 'svg'});
    shown.push([chart, specs[Number(element.dataset.chart)]]);
    new ResizeObserver(() => chart.resize()).observe(element);
  }
  const draw = () => {
    const style = getComputedStyle(document.documentElement);
    for (const [chart, spec] of shown) chart.setOption(option(spec, style), true);
  };
  draw();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  document.documentElement.dataset.drawn = String(shown.length);
})();
