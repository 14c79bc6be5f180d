"""Renders chat templates with Jinja2 and the settings of transformers. Reads {"templates": {name: source},
"conversations": [...], "now": seconds} from standard input, writes {name: [{"ok": text} | {"error": text}]}."""

import datetime
import json
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("support")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def support(self, caller):
        return caller()


def main():
    job = json.load(sys.stdin)
    now = datetime.datetime.fromtimestamp(job["now"], datetime.timezone.utc)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = now.strftime
    out = {}
    for name, source in job["templates"].items():
        results = []
        for c in job["conversations"]:
            try:
                text = env.from_string(source).render(
                    messages=c["messages"],
                    tools=c.get("tools"),
                    documents=None,
                    add_generation_prompt=c["add_generation_prompt"],
                    bos_token="<s>",
                    eos_token="</s>",
                    **c.get("extra", {}),
                )
                results.append({"ok": text})
            except Exception as e:  # whatever a template does wrong
                results.append({"error": f"{type(e).__name__}: {e}"})
        out[name] = results
    json.dump(out, sys.stdout)


main()
