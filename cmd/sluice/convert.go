package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"sluice/config"
	"sluice/config/kong"
	"sluice/gateway"
	"sluice/gateway/policy/openapi"
	"sluice/gateway/registry"
)

func convertCommand() *cobra.Command {
	var src configuration
	var out string
	var server string
	var report bool
	c := &cobra.Command{
		Use:   "convert kong.yml|openapi.yaml [-o FILE] [--report]",
		Short: "a file of Kong as a native configuration, or one with routes for each path of an OpenAPI document",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			src.path = args[0]
			if isOpenAPI(src.path) {
				if report {
					return usageError{errors.New("--report is for files of Kong; of an OpenAPI document every path becomes a route")}
				}
				return convertOpenAPI(c.OutOrStdout(), src.path, out, server)
			}
			if server != "" {
				return usageError{errors.New("--server is for OpenAPI documents")}
			}
			text, notes, err := src.convert()
			if report {
				where := c.OutOrStdout()
				if out == "" && err == nil {
					where = c.ErrOrStderr() // the configuration itself is on stdout
				}
				writeReport(where, notes)
			}
			if err != nil {
				return err
			}
			if out == "" {
				_, err := c.OutOrStdout().Write(text)
				return err
			}
			// It may hold secrets of the file.
			return os.WriteFile(out, text, 0o600)
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "where to write it; default: stdout")
	c.Flags().StringVar(&server, "server", "", "of an OpenAPI document: where the service is, http://HOST:PORT/BASE, in place of its servers")
	c.Flags().BoolVar(&report, "report", false, "list what became of each field: kept, mapped, not supported; on stderr, with -o on stdout")
	src.kongFlag(c)
	return c
}

var openAPIKey = regexp.MustCompile(`(?m)^[\s{]*["']?openapi["']?\s*:\s*["']?3`)

// isOpenAPI tells an OpenAPI document, by its first words.
func isOpenAPI(path string) bool {
	text, err := os.ReadFile(path)
	return err == nil && openAPIKey.Match(text)
}

// convertOpenAPI writes routes for the paths of a document, and makes sure that the gateway would run them.
func convertOpenAPI(stdout io.Writer, path, out, server string) error {
	name := path
	if out != "" && !filepath.IsAbs(path) {
		dir, err := filepath.Abs(filepath.Dir(out))
		if err != nil {
			return err
		}
		if name, err = filepath.Abs(path); err != nil {
			return err
		}
		if rel, err := filepath.Rel(dir, name); err == nil {
			name = rel
		}
	}
	text, err := openapi.Convert(path, name, server)
	if err != nil {
		return err
	}
	c, err := config.Parse(cmp.Or(out, "routes.yaml"), text, config.Options{})
	if err != nil {
		return err
	}
	_, done, err := gateway.Compile(gateway.Options{Registry: registry.All()}, c)
	if err != nil {
		return err
	}
	done()
	if out == "" {
		_, err := stdout.Write(text)
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// convert translates a file and makes sure that the gateway would run it.
func (s *configuration) convert() (text []byte, notes []kong.Note, err error) {
	if err := s.checkKong(); err != nil {
		return nil, nil, err
	}
	o := config.Options{Environ: os.Environ()}
	translate := kong.Translator(kong.Options{Warn: s.kongUnknown == "warn", Keep: true, Notes: &notes})
	o.Kong = func(file config.Tree, env func(string) (string, bool)) (config.Tree, config.Errors, config.Errors) {
		native, remarks, errs := translate(file, env)
		if len(errs) == 0 {
			text = native.YAML()
		}
		return native, remarks, errs
	}
	c, err := config.Load(s.path, o)
	if err != nil {
		return nil, notes, err
	}
	if text == nil {
		return nil, nil, usageError{errors.New(s.path + " is no file of Kong: it has no _format_version")}
	}
	_, done, err := gateway.Compile(gateway.Options{Registry: registry.All()}, c)
	if err != nil {
		return nil, notes, err
	}
	done()
	for _, r := range c.Remarks() {
		fmt.Fprintln(os.Stderr, "warning:", r.Error())
	}
	return text, notes, nil
}

// writeReport lists the notes in the order of the file, and how many there are of each fate.
func writeReport(w io.Writer, notes []kong.Note) {
	slices.SortStableFunc(notes, func(a, b kong.Note) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fates := map[string]int{}
	for _, n := range notes {
		fates[n.Fate]++
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", n.Pos, n.Path, n.Fate, n.Message)
	}
	_ = table.Flush()
	var sum []string
	for _, fate := range slices.Sorted(maps.Keys(fates)) {
		sum = append(sum, fmt.Sprintf("%d %s", fates[fate], fate))
	}
	fmt.Fprintf(w, "\n%s\n", strings.Join(sum, "; "))
}
