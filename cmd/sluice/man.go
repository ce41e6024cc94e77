package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand prints the manual page, which is made of the commands as they are.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man",
		Short: "print the manual page, for man -l",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return writeMan(c.OutOrStdout(), c.Root())
		},
	}
}

// manTail is what the commands themselves do not tell.
const manTail = `.SH SIGNALS
.TP
.B SIGHUP
loads the configuration again, all of it or nothing
.TP
.BR SIGTERM ", " SIGINT
drain: readiness fails at once, connections are accepted for \fB\-\-drain\-delay\fR more, what is in flight is waited for until \fB\-\-drain\-timeout\fR; a second signal ends at once
.TP
.B SIGUSR1
opens log files anew, after they were rotated
.TP
.B SIGUSR2
starts the program that is installed now on the same sockets, and drains this process when that one serves
.SH EXIT STATUS
.TP
.B 0
clean
.TP
.B 1
an error in the configuration, or of what was to be done
.TP
.B 2
wrong usage of the command line
.TP
.B 3
an address could not be listened on
.SH ENVIRONMENT
Every flag \fB\-\-some\-flag\fR has the variable \fBSLUICE_SOME_FLAG\fR; those that may be repeated take a list with commas there.
A flag beats the environment, which beats the configuration, which beats the default.
.TP
.B SLUICE_SET__LIMITS__IDLE_TIMEOUT
as \fB\-\-set limits.idle_timeout=\fR, and likewise for every scalar of the configuration
.TP
.BR SLUICE_JWT_SECRET ", " SLUICE_JWT_JWKS_URL
what tokens are verified with, for a file of Kong without consumers
.TP
.BR GOMEMLIMIT ", " GOGC
as for every Go program; \fB\-\-memory\-limit\fR and \fB\-\-gogc\fR go first
.SH FILES
.TP
.I /etc/sluice/sluice.yaml
the configuration, where the unit for systemd expects it
.SH EXAMPLES
.nf
sluice validate \-c gateway.yaml
sluice explain \-c gateway.yaml GET http://localhost:8080/api/v1/users/7
sluice run \-c gateway.yaml \-\-set limits.idle_timeout=30s
sluice completion bash > /etc/bash_completion.d/sluice
.fi
`

// writeMan writes sluice(1) in the macros of man(7).
func writeMan(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Made by sluice man; do not edit.\n.TH SLUICE 1 \"\" Sluice \"User Commands\"\n.SH NAME\nsluice \\- %s\n.SH SYNOPSIS\n.B sluice\n.I COMMAND\n[\\fIFLAGS\\fR]\n", roff(root.Short))
	b.WriteString(".SH DESCRIPTION\nSluice stands in front of many services: it routes, authenticates, limits, caches and watches what goes to them.\n" +
		"It is described by one file or a directory of YAML files, which \\fBsluice schema\\fR gives the JSON Schema of, and reloads when they change.\n.SH COMMANDS\n")
	for _, c := range root.Commands() {
		if c.Hidden || c.Name() == "help" {
			continue
		}
		writeManCommand(&b, c, "sluice ")
	}
	b.WriteString(manTail)
	_, err := io.WriteString(w, b.String())
	return err
}

func writeManCommand(b *strings.Builder, c *cobra.Command, before string) {
	if c.Name() == "completion" {
		b.WriteString(".SS sluice completion bash|zsh|fish|powershell\nprints the script that has a shell complete commands, flags and their values; \\fB\\-\\-help\\fR of each says where to put it.\n")
		return
	}
	fmt.Fprintf(b, ".SS %s\n%s.\n", roff(before+c.Use), roff(c.Short))
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(b, "\\fB\\-%s\\fR, ", f.Shorthand)
		}
		fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", roff(f.Name))
		switch kind := f.Value.Type(); kind {
		case "bool":
		case "stringArray":
			b.WriteString(" \\fITEXT\\fR")
		default:
			fmt.Fprintf(b, " \\fI%s\\fR", roff(strings.ToUpper(kind)))
		}
		b.WriteString("\n" + roff(f.Usage))
		switch f.DefValue {
		case "", "false", "0", "[]", "0s":
		default:
			b.WriteString(" (default: " + roff(f.DefValue) + ")")
		}
		b.WriteString("\n")
	})
	for _, inner := range c.Commands() {
		if !inner.Hidden && inner.Name() != "help" {
			writeManCommand(b, inner, before+c.Name()+" ")
		}
	}
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ")

// roff writes a text so that it stands for itself.
func roff(text string) string {
	text = roffEscapes.Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
