// A real Prometheus as Grafana's data source: its HTTP API, Grafana's variables and data frames.
import { FieldType, toDataFrame } from '@grafana/data';
import { sceneGraph } from '@grafana/scenes';

const escape = (value) => String(value).replace(/[\\^$*+?.()|[\]{}]/g, '\\\\$&');

// In a matcher: one value as it is but escaped, several as alternatives.
function matcher(value) {
  return Array.isArray(value) ? `(${value.map(escape).join('|')})` : escape(value);
}

export class Prometheus {
  constructor(address, scrapeSeconds) {
    this.address = address;
    this.scrapeSeconds = scrapeSeconds;
    this.name = 'Prometheus';
    this.type = 'prometheus';
    this.uid = 'prometheus';
    this.id = 1;
    this.meta = { id: 'prometheus', name: 'Prometheus', info: {} };
    this.instanceSettings = { uid: this.uid, type: this.type, name: this.name, id: 1, meta: this.meta, jsonData: {} };
  }

  getRef() {
    return { type: this.type, uid: this.uid };
  }

  async ask(path, parameters) {
    const answer = await fetch(`${this.address}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const body = await answer.json();
    if (body.status !== 'success') {
      throw new Error(`${body.error} (${parameters.query ?? path})`);
    }
    return body.data;
  }

  // The interval variables that the data source itself provides.
  intervals(range, step) {
    const seconds = Math.round((range.to.valueOf() - range.from.valueOf()) / 1000);
    const rateInterval = Math.max(step + this.scrapeSeconds, 4 * this.scrapeSeconds);
    const text = { __interval: `${step}s`, __rate_interval: `${rateInterval}s`, __range: `${seconds}s` };
    return Object.fromEntries(Object.entries(text).map(([name, value]) => [name, { text: value, value }]));
  }

  async query(request) {
    const object = request.scopedVars.__sceneObject?.value.valueOf();
    const tables = request.targets.filter((target) => target.format === 'table').length;
    const frames = await Promise.all(
      request.targets.map(async (target) => {
        const step = Math.max(Math.ceil(request.intervalMs / 1000), this.scrapeSeconds);
        const variables = { ...request.scopedVars, ...this.intervals(request.range, step) };
        const query = sceneGraph.interpolate(object, target.expr, variables, matcher);
        const end = request.range.to.valueOf() / 1000;
        if (target.instant) {
          const { result } = await this.ask('query', { query, time: end });
          return target.format === 'table' ? [table(target.refId, result, tables > 1)] : result.map((one) => series(target, one, [one.value], step));
        }
        const start = Math.floor(request.range.from.valueOf() / 1000 / step) * step;
        const { result } = await this.ask('query_range', { query, start, end, step });
        return result.map((one) => series(target, one, one.values, step));
      })
    );
    return { data: frames.flat() };
  }

  // label_values(series, label), the only kind of variable query that we use.
  async metricFindQuery(query, options) {
    const object = options.scopedVars.__sceneObject?.value.valueOf();
    const text = sceneGraph.interpolate(object, query.query, options.scopedVars, matcher);
    const [, match, label] = /^label_values\((.*), (\w+)\)$/s.exec(text);
    const range = options.range;
    const values = await this.ask(`label/${label}/values`, {
      'match[]': match,
      start: range.from.valueOf() / 1000,
      end: range.to.valueOf() / 1000,
    });
    return values.map((value) => ({ text: value, value }));
  }
}

function series(target, { metric }, values, step) {
  const { __name__: name = '', ...labels } = metric;
  const all = Object.entries(labels).map(([key, value]) => `${key}="${value}"`).join(', ');
  const legend = target.legendFormat
    ? target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, key) => metric[key] ?? '')
    : all ? `${name}{${all}}` : name || target.expr;
  return toDataFrame({
    refId: target.refId,
    name: legend,
    fields: [
      { name: 'Time', type: FieldType.time, config: { interval: step * 1000 }, values: values.map(([time]) => time * 1000) },
      { name: 'Value', type: FieldType.number, labels, config: { displayNameFromDS: legend }, values: values.map(([, value]) => Number(value)) },
    ],
  });
}

function table(refId, result, several) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return toDataFrame({
    refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map(({ value }) => value[0] * 1000) },
      ...labels.map((label) => ({ name: label, type: FieldType.string, values: result.map(({ metric }) => metric[label] ?? '') })),
      { name: several ? `Value #${refId}` : 'Value', type: FieldType.number, values: result.map(({ value }) => Number(value[1])) },
    ],
  });
}

