package kong

import (
	"fmt"
	"strings"
)

// Readme is the text of README.md: every field and every option of the plugins, from the tables that files are read by.
func Readme() string {
	var b strings.Builder
	b.WriteString(`# Files of Kong

` + "`sluice run -c kong.yml`" + ` runs a declarative file of Kong, ` + "`sluice convert kong.yml --report`" + ` writes the native configuration that means the same and says what
became of each field. Written for Kong 3.9; formats 1.1, 2.1 and 3.0. This page is generated from the tables by which files are read; ` + "`make generate`" + ` writes it.

What a plugin can not honour is an error that names the plugin and what it acts on. ` + "`--kong-unknown=warn`" + ` runs without such plugins, and says so at every start: a
gateway that runs without authentication because a plugin was not known would be no replacement.

What is Kong's in answers and routing stands behind ` + "`compatibility: kong`" + `, which converted files have: bodies of errors and their negotiation by Accept, X-Kong-Request-Id,
X-Kong-Upstream-Latency, X-Kong-Proxy-Latency and X-Kong-Response-Latency, prefixes that are not segment-aware, the priority of routes as the router
` + "`traditional_compatible`" + ` has it, 404 where a method is all that differs, and the order of plugins. Native matching differs in these: it takes the most specific path by segments first,
and never a shorter one for having more kinds of conditions.

- Listeners are not in Kong's file: there is ` + "`:8080`" + `, or ` + "`--listen`" + `; with ` + "`certificates`" + ` also ` + "`:8443`" + `. ` + "`--set`" + ` takes native paths.
- Paths are decoded and normalised once, and what backends read in different ways gets 400, also here.
- The most specific plugin wins: consumer at a route or service, consumer, consumer group, route, service, global.
- Of several authentication plugins on one route all those without ` + "`anonymous`" + ` have to succeed, and the last one by Kong's priorities says who calls; where all have it, any one is enough.
- Plugins that log become one ` + "`access_log`" + ` where they stand together. Lines have Sluice's fields, not those of Kong's log serializer: what reads them has to be told.
- With routes or services of gRPC the listener ` + "`:8080`" + ` speaks HTTP/2 without TLS too.
- A ` + "`jwt`" + ` plugin in a file without any consumer takes its key from SLUICE_JWT_SECRET or SLUICE_JWT_JWKS_URL. With neither, every request gets 401 and validation says why.
- Passwords and keys are hashed with SHA-256 as they are read, also in a converted file; use long random ones, or hash passwords anew with bcrypt.
- Refusals of the plugin jwt have ` + "`request_id`" + ` too, which Kong's have not.
- A file for the log that can not be opened is a warning.

`)
	b.WriteString("| fate | is |\n|---|---|\n| kept | the same name and meaning |\n| mapped | other settings that mean the same |\n| kept, without effect | understood; says nothing about requests here |\n| refused | an error, where it is not Kong's default |\n\n## Fields\n")
	for _, e := range entities {
		fmt.Fprintf(&b, "\n### %s\n\n| field | Kong's default | fate | here |\n|---|---|---|---|\n", e.name)
		rows(&b, "", e.fields)
	}
	b.WriteString("\n## Plugins\n")
	for _, d := range definitions {
		fmt.Fprintf(&b, "\n### %s\n\n%s", d.name, d.fate)
		if d.to != "" {
			b.WriteString(": " + d.to)
		}
		b.WriteString(".\n")
		if len(d.options) > 0 {
			b.WriteString("\n| option | Kong's default | fate | here |\n|---|---|---|---|\n")
			rows(&b, "", d.options)
		}
	}
	b.WriteString("\n### others\n\nrefused: Kong Enterprise's or code of one's own: " + strings.Join(enterprise, ", ") + "; and whatever else is not named here.\n")
	return b.String()
}

func rows(b *strings.Builder, prefix string, fields []field) {
	for _, f := range fields {
		name := prefix + f.name
		if f.kind == record {
			rows(b, name+".", f.sub)
			continue
		}
		shown := "`" + name + "`"
		for _, old := range f.was {
			shown += ", `" + prefix + old + "`"
		}
		preset := ""
		if f.preset != "" {
			preset = "`" + f.preset + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", shown, preset, f.fate, strings.ReplaceAll(f.to, "|", "\\|"))
	}
}
