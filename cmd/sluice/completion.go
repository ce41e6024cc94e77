package main

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/config"
)

// flagValues are the values of flags that have few, whatever command they stand on.
var flagValues = map[string][]string{
	"log-level":    {"debug", "info", "warn", "error"},
	"log-format":   {"json", "text"},
	"kong-unknown": {"error\trefuse the file", "warn\trun without them"},
	"alg":          {"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
	"drain-delay":  {"5s", "0"},
	"header":       {"Authorization: Bearer ", "Accept: application/json", "Content-Type: application/json", "Host: "},
}

// names are flags whose values are names in the configuration that -c gives.
var names = map[string]func(*config.Config) []string{
	"consumer": func(c *config.Config) []string { return slices.Sorted(maps.Keys(c.Consumers)) },
	"listener": (*config.Config).ListenerNames,
}

// files are flags that name files, with the extensions of those.
var files = map[string][]string{
	"config": {"yaml", "yml", "json"},
	"output": {"yaml", "yml"},
	"key":    {"pem", "key"},
}

// complete tells shells what the flags and arguments of every command can be, and adds the command that prints the
// scripts for them.
func complete(root *cobra.Command) {
	for _, c := range below(root) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if _, known := c.GetFlagCompletionFunc(f.Name); !known {
				completeFlag(c, f)
			}
		})
		switch c.Name() {
		case "explain":
			c.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
				if len(args) == 0 {
					return []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, cobra.ShellCompDirectiveNoFileComp
				}
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
		case "convert", "diff":
			c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
				return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
			}
		default:
			if c.ValidArgsFunction == nil && len(c.Commands()) == 0 && !strings.Contains(c.Use, "FILE") {
				c.ValidArgsFunction = cobra.NoFileCompletions
			}
		}
	}
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			wrongUsage(c)
			c.Args, c.RunE = cobra.ArbitraryArgs, func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return usageError{fmt.Errorf("no completion for %q; there is one for bash, zsh, fish and powershell", args[0])}
				}
				return c.Help()
			}
		}
	}
}

// below are the commands below another, those with commands of their own before these.
func below(c *cobra.Command) (all []*cobra.Command) {
	for _, inner := range c.Commands() {
		all = append(append(all, inner), below(inner)...)
	}
	return all
}

// wrongUsage has arguments that a command does not take end with the exit code for that.
func wrongUsage(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, given []string) error {
			if err := args(c, given); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, inner := range c.Commands() {
		wrongUsage(inner)
	}
}

func completeFlag(c *cobra.Command, f *pflag.Flag) {
	var err error
	switch {
	case f.Name == "set":
		err = c.RegisterFlagCompletionFunc(f.Name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return settings(reflect.TypeFor[config.Config](), ""), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		})
	case flagValues[f.Name] != nil:
		err = c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(flagValues[f.Name], cobra.ShellCompDirectiveNoFileComp))
	case names[f.Name] != nil && c.Flags().Lookup("config") != nil:
		err = c.RegisterFlagCompletionFunc(f.Name, func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return configured(c, names[f.Name]), cobra.ShellCompDirectiveNoFileComp
		})
	case files[f.Name] != nil:
		err = c.MarkFlagFilename(f.Name, files[f.Name]...)
	case f.Value.Type() != "bool":
		err = c.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
	}
	if err != nil {
		panic("BUG: " + err.Error())
	}
}

// configured reads names out of the configuration of the command line or of the environment; none if it can not be read.
func configured(c *cobra.Command, of func(*config.Config) []string) []string {
	path, _ := c.Flags().GetString("config")
	if path == "" {
		path = os.Getenv("SLUICE_CONFIG")
	}
	s := configuration{path: path, kongUnknown: "warn"}
	loaded, err := config.Load(path, s.options())
	if err != nil {
		return nil
	}
	return of(loaded)
}

// settings are the paths of the scalars in a block, as far as they hold no names.
func settings(t reflect.Type, prefix string) (paths []string) {
	for _, f := range config.Fields(t) {
		switch {
		case config.IsScalar(f.Type):
			paths = append(paths, prefix+f.Name+"=")
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[config.Block]() && !strings.Contains(prefix, f.Name+"."):
			paths = append(paths, settings(f.Type, prefix+f.Name+".")...)
		}
	}
	return paths
}
