package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/config"
)

// usageError marks a mistake in the command line.
type usageError struct{ error }

// wrongArguments says what a command takes instead.
func wrongArguments(c *cobra.Command, given []string) error {
	got := "none"
	if len(given) > 0 {
		got = fmt.Sprintf("%d, %q", len(given), given)
		if len(given) == 1 {
			got = fmt.Sprintf("%q", given[0])
		}
	}
	_, wanted, _ := strings.Cut(c.Use, " ")
	var names []string
	value := false // of the flag before it
	for word := range strings.FieldsSeq(wanted) {
		flag := strings.HasPrefix(strings.TrimLeft(word, "[("), "-")
		if !flag && !value && word != "|" {
			names = append(names, word)
		}
		value = flag
	}
	takes := "takes no arguments"
	if len(names) > 0 {
		takes = "takes the arguments " + strings.Join(names, " ")
	}
	return usageError{fmt.Errorf("%s %s, and was given %s; write it as %s", c.CommandPath(), takes, got, c.UseLine())}
}

// wrongFlag suggests the flag that was meant.
func wrongFlag(c *cobra.Command, err error) error {
	given, unknown := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !unknown {
		return usageError{err}
	}
	var known []string
	c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
	hint := config.Hint("--"+given, known)
	if !strings.Contains(hint, "did you mean") {
		hint = "; " + c.CommandPath() + " --help lists them"
	}
	return usageError{fmt.Errorf("%s has no flag --%s%s", c.CommandPath(), given, hint)}
}

// wrongCommand suggests the command that was meant.
func wrongCommand(root *cobra.Command, given string) error {
	var known []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			known = append(known, c.Name())
		}
	}
	hint := config.Hint(given, known)
	if !strings.Contains(hint, "did you mean") {
		hint = "; " + root.CommandPath() + " --help lists them"
	}
	return usageError{fmt.Errorf("unknown command %q%s", given, hint)}
}
