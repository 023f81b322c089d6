// What Grafana's application gives to its panel libraries, as little of it as they need: a data
// source, panel plugins, an event bus, and the registries of field options and transformations.
import { EventBusSrv, booleanOverrideProcessor, dataLinksOverrideProcessor, displayNameOverrideProcessor, identityOverrideProcessor, numberOverrideProcessor, standardFieldConfigEditorRegistry, standardTransformers, standardTransformersRegistry, stringOverrideProcessor, thresholdsOverrideProcessor, unitOverrideProcessor, valueMappingsOverrideProcessor, LoadingState } from '@grafana/data';
import { config, setAppEvents, setDataSourceSrv, setPluginImportUtils, setRunRequest, toDataQueryError } from '@grafana/runtime';
import { catchError, from, map, of } from 'rxjs';

const FIELD_OPTIONS = {
  displayName: displayNameOverrideProcessor,
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  fieldMinMax: booleanOverrideProcessor,
  noValue: stringOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
};

export const nothing = () => null;

export function option(id, process, more = {}) {
  return { id, path: id, name: id, editor: nothing, override: nothing, process, shouldApply: () => true, settings: {}, ...more };
}

// How Grafana runs the queries of a panel: once, and an error becomes part of the answer.
function runRequest(source, request) {
  return from(source.query(request)).pipe(
    map(({ data }) => ({ state: LoadingState.Done, series: data, timeRange: request.range, request })),
    catchError((error) =>
      of({ state: LoadingState.Error, series: [], timeRange: request.range, request, errors: [toDataQueryError(error)] })
    )
  );
}

export function prepare(source, plugins) {
  standardFieldConfigEditorRegistry.setInit(() =>
    Object.entries(FIELD_OPTIONS).map(([id, process]) => option(id, process))
  );
  standardTransformersRegistry.setInit(() =>
    // Some are listed twice, under an old and a new name.
    [...new Map(Object.values(standardTransformers).map((one) => [one.id, one])).values()].map((transformation) => ({
      id: transformation.id,
      name: transformation.name,
      transformation: async () => transformation,
      editor: nothing,
    }))
  );
  setRunRequest(runRequest);
  setAppEvents(new EventBusSrv());
  setDataSourceSrv({
    get: async () => source,
    getList: () => [source.instanceSettings],
    getInstanceSettings: () => source.instanceSettings,
    registerRuntimeDataSource: nothing,
    reload: nothing,
  });
  setPluginImportUtils({
    importPanelPlugin: async (id) => {
      if (!plugins[id]) {
        throw new Error(`no panel of type ${id} in this harness`);
      }
      return plugins[id];
    },
    getPanelPluginFromCache: (id) => plugins[id],
  });
  config.featureToggles = config.featureToggles ?? {};
}
