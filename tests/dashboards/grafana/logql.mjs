// Reads a JSON list of LogQL queries from standard input; prints, for each, what its grammar refuses.
import { parser } from '@grafana/lezer-logql';

let text = '';
for await (const part of process.stdin) {
  text += part;
}
const refused = JSON.parse(text).map((query) => {
  const places = [];
  parser.parse(query).iterate({
    enter: ({ type, from, to }) => {
      if (type.isError) {
        places.push(`at ${from}: ${query.slice(Math.max(0, from - 20), to + 20)}`);
      }
    },
  });
  return places;
});
process.stdout.write(JSON.stringify(refused));
