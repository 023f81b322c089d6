// One dashboard, drawn from its JSON: /?prometheus=http://...&scrape=1&from=...&to=...&run_id=...
import { createTheme, ThemeContext } from '@grafana/data';
import { EmbeddedScene, QueryVariable, SceneDataTransformer, SceneObjectBase, SceneQueryRunner, SceneTimeRange, SceneVariableSet, VariableValueSelectors, VizPanel, sceneGraph } from '@grafana/scenes';
import { GlobalStyles, PortalContainer } from '@grafana/ui';
import React from 'react';
import { createRoot } from 'react-dom/client';
import { MemoryRouter } from 'react-router-dom';
import { prepare } from './environment.js';
import { plugins } from './plugins.jsx';
import { Prometheus } from './prometheus.js';

const CELL = 38; // one unit of a dashboard's grid, in pixels, its gap included
const GAP = 8;
const parameters = new URLSearchParams(location.search);
const source = new Prometheus(parameters.get('prometheus'), Number(parameters.get('scrape')));

function variable(model) {
  const chosen = parameters.get(`var-${model.name}`);
  return new QueryVariable({
    name: model.name,
    label: model.label,
    query: model.query,
    datasource: source.getRef(),
    isMulti: model.multi,
    includeAll: model.includeAll,
    allValue: model.allValue,
    defaultToAll: model.includeAll,
    refresh: model.refresh,
    sort: model.sort,
    ...(chosen ? { value: chosen, text: chosen } : {}),
  });
}

function panel(model) {
  const runner = new SceneQueryRunner({
    datasource: source.getRef(),
    queries: model.targets.map((target) => ({ ...target, datasource: source.getRef() })),
    minInterval: parameters.get('interval') ?? model.interval,
    maxDataPoints: model.maxDataPoints ?? 600,
  });
  return new VizPanel({
    key: `panel-${model.id}`,
    pluginId: model.type,
    title: model.title,
    description: model.description,
    options: model.options,
    fieldConfig: model.fieldConfig,
    $data: new SceneDataTransformer({ $data: runner, transformations: model.transformations ?? [] }),
  });
}

// The JSON of a collapsed row holds its panels, laid out as if it were open.
const opened = (board) => board.panels.flatMap((one) => (one.type === 'row' ? [one, ...one.panels] : [one]));

// A scene object asks for its data only once it is drawn by its own component.
const Activated = ({ model }) => <model.Component model={model} />;

function Grid({ model }) {
  const { board, panels } = model.useState();
  const byKey = Object.fromEntries(panels.map((one) => [one.state.key, one]));
  const width = document.documentElement.clientWidth - 2 * GAP;
  const place = ({ x, y, w, h }) => ({
    position: 'absolute',
    left: (x / 24) * width,
    top: y * CELL,
    width: (w / 24) * width - GAP,
    height: h * CELL - GAP,
  });
  const height = Math.max(...opened(board).map(({ gridPos }) => gridPos.y + gridPos.h)) * CELL;
  return (
    <div style={{ position: 'relative', width, height, flexShrink: 0 }}>
      {opened(board).map(({ id, type, title, gridPos }) =>
        type === 'row' ? (
          <h5 key={id} style={{ ...place(gridPos), margin: '8px 4px' }}>{title}</h5>
        ) : (
          <div key={id} style={place(gridPos)} data-panel={id}>
            <Activated model={byKey[`panel-${id}`]} />
          </div>
        )
      )}
    </div>
  );
}

class Layout extends SceneObjectBase {
  static Component = Grid;
}

// What a test wants to know of each panel: did its queries succeed, and how many values came.
function report(panels) {
  return panels.map((one) => {
    const data = sceneGraph.getData(one).state.data;
    const numbers = (data?.series ?? []).flatMap((frame) => frame.fields.filter((field) => field.type === 'number'));
    return {
      id: Number(one.state.key.replace('panel-', '')),
      title: one.state.title,
      type: one.state.pluginId,
      state: data?.state,
      error: data?.errors?.map(({ message }) => message).join('; ') ?? one.state._pluginLoadError ?? '',
      values: numbers.flatMap((field) => Array.from(field.values)).filter((value) => Number.isFinite(value)).length,
    };
  });
}

async function annotations(board, range) {
  const step = Math.max(1, Math.round((range.to.valueOf() - range.from.valueOf()) / 600_000)) * 1000;
  const found = await Promise.all(
    board.annotations.list.map(({ target }) =>
      source.query({ targets: [target], range, intervalMs: step, scopedVars: { __sceneObject: { value: { valueOf: () => window.harness.scene } } } })
    )
  );
  const frames = found.flatMap(({ data }) => data);
  // The first moment of each stretch of time in which something happened.
  return frames.flatMap(({ fields: [time] }) => time.values.filter((at, place) => place === 0 || at - time.values[place - 1] > 3 * step));
}

async function main() {
  const board = await (await fetch('/dashboard.json')).json();
  prepare(source, plugins);
  const panels = opened(board).filter(({ type }) => type !== 'row').map(panel);
  const range = new SceneTimeRange({ from: parameters.get('from'), to: parameters.get('to'), timeZone: 'utc' });
  const scene = new EmbeddedScene({
    $timeRange: range,
    $variables: new SceneVariableSet({ variables: board.templating.list.filter(({ type }) => type === 'query').map(variable) }),
    controls: [new VariableValueSelectors({})],
    body: new Layout({ board, panels }),
  });
  const annotate = async () => {
    window.harness.annotations = await annotations(board, range.state.value);
    window.harness.plots.forEach((plot) => plot.redraw());
  };
  window.harness = { scene, annotate, annotations: [], plots: [], report: () => report(panels) };
  const theme = createTheme({ colors: { mode: parameters.get('theme') ?? 'dark' } });
  createRoot(document.getElementById('root')).render(
    <MemoryRouter>
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        <div style={{ padding: GAP }}>
          <h3>{board.title}</h3>
          <scene.Component model={scene} />
        </div>
        <PortalContainer />
      </ThemeContext.Provider>
    </MemoryRouter>
  );
}

main().catch((error) => {
  document.body.textContent = error.stack;
  window.harness = { failed: error.stack };
});
