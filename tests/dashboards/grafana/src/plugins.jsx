// The panel types that the dashboards use, each one Grafana's own component with the panel's options.
import { PanelPlugin, VizOrientation, cacheFieldDisplayNames, getDisplayValueAlignmentFactors, getFieldDisplayValues, identityOverrideProcessor } from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, TooltipPlugin, VizRepeater, useTheme2 } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import React from 'react';
import { nothing } from './environment.js';

// What the dashboards set below "custom", and what Grafana's components look for there.
const CUSTOM = ['align', 'axisBorderShow', 'axisCenteredZero', 'axisColorMode', 'axisGridShow', 'axisLabel', 'axisPlacement', 'axisSoftMax', 'axisSoftMin', 'barAlignment', 'barMaxWidth', 'barWidthFactor', 'cellOptions', 'drawStyle', 'fillOpacity', 'filterable', 'gradientMode', 'hideFrom', 'inspect', 'lineInterpolation', 'lineStyle', 'lineWidth', 'pointSize', 'scaleDistribution', 'showPoints', 'spanNulls', 'stacking', 'thresholdsStyle', 'transform', 'width'];

function values(props, theme) {
  return getFieldDisplayValues({
    fieldConfig: props.fieldConfig,
    reduceOptions: { values: false, ...props.options.reduceOptions },
    replaceVariables: props.replaceVariables,
    theme,
    data: props.data.series,
    timeZone: props.timeZone,
  });
}

function Stat(props) {
  const theme = useTheme2();
  const draw = ({ value, width, height, alignmentFactors }) => (
    <BigValue
      value={value.display}
      width={width}
      height={height}
      alignmentFactors={alignmentFactors}
      theme={theme}
      colorMode={props.options.colorMode}
      graphMode={props.options.graphMode}
      justifyMode={props.options.justifyMode}
      textMode={props.options.textMode}
    />
  );
  return (
    <VizRepeater
      getValues={() => values(props, theme)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={draw}
      width={props.width}
      height={props.height}
      source={props.data}
      renderCounter={props.renderCounter}
      orientation={VizOrientation.Vertical}
      autoGrid
    />
  );
}

function Gauges(props) {
  const theme = useTheme2();
  const draw = ({ value, width, height, alignmentFactors, orientation }) => (
    <BarGauge
      value={value.display}
      field={value.field}
      display={value.view?.getFieldDisplayProcessor(value.colIndex)}
      width={width}
      height={height}
      orientation={orientation}
      alignmentFactors={alignmentFactors}
      theme={theme}
      displayMode={props.options.displayMode}
      valueDisplayMode={props.options.valueMode}
      namePlacement={props.options.namePlacement}
      text={props.options.text}
      showUnfilled={props.options.showUnfilled ?? true}
    />
  );
  return (
    <VizRepeater
      getValues={() => values(props, theme)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={draw}
      width={props.width}
      height={props.height}
      source={props.data}
      renderCounter={props.renderCounter}
      orientation={props.options.orientation}
      minVizHeight={props.options.minVizHeight}
      maxVizHeight={props.options.maxVizHeight}
      itemSpacing={8}
    />
  );
}

// What Grafana shows in place of a panel that has no values.
function Nothing({ fieldConfig }) {
  return <div style={{ padding: 16, textAlign: 'center', opacity: 0.7 }}>{fieldConfig.defaults.noValue ?? 'No data'}</div>;
}

// Grafana draws annotations outside its panel libraries; a dashed line says as much.
function mark(plot, times) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = 'rgba(242, 73, 92, 0.8)';
  ctx.setLineDash([6, 4]);
  ctx.lineWidth = 1.5;
  for (const time of times) {
    const x = plot.valToPos(time, 'x', true);
    if (x >= bbox.left && x <= bbox.left + bbox.width) {
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
  }
  ctx.restore();
}

function Graph(props) {
  return (
    <TimeSeries
      frames={props.data.series}
      structureRev={props.data.structureRev}
      timeRange={props.timeRange}
      timeZone={props.timeZone}
      width={props.width}
      height={props.height}
      legend={props.options.legend}
      options={props.options}
    >
      {(builder) => {
        builder.addHook('init', (plot) => window.harness.plots.push(plot));
        builder.addHook('draw', (plot) => mark(plot, window.harness.annotations));
        return <TooltipPlugin config={builder} data={props.data.series[0]} frames={props.data.series} mode={props.options.tooltip.mode} timeZone={props.timeZone} />;
      }}
    </TimeSeries>
  );
}

function Table(props) {
  // The headers are the display names, which the panel's host computes.
  cacheFieldDisplayNames(props.data.series);
  return (
    <TableNG
      data={props.data.series[0]}
      width={props.width}
      height={props.height}
      cellHeight={props.options.cellHeight}
      sortBy={props.options.sortBy}
      fieldConfig={props.fieldConfig}
      structureRev={props.data.structureRev}
      timeRange={props.timeRange}
      enableVirtualization={false}
    />
  );
}

function plugin(id, component) {
  const filled = (props) => (props.data.series.some(({ length }) => length) ? React.createElement(component, props) : <Nothing {...props} />);
  const made = new PanelPlugin(filled).useFieldConfig({
    useCustomConfig: (builder) => {
      for (const name of CUSTOM) {
        builder.addCustomEditor({ id: name, path: name, name, editor: nothing, override: nothing, process: identityOverrideProcessor, shouldApply: () => true, settings: {} });
      }
    },
  });
  made.meta = { id, name: id, type: 'panel', module: '', baseUrl: '', info: { version: '', logos: {}, author: {}, links: [], screenshots: [], updated: '' } };
  return made;
}

export const plugins = {
  stat: plugin('stat', Stat),
  bargauge: plugin('bargauge', Gauges),
  timeseries: plugin('timeseries', Graph),
  table: plugin('table', Table),
};
