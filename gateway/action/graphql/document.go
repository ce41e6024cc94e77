package graphql

import (
	"container/list"
	"encoding/json"
	"math"
	"strconv"
	"sync"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"
)

// reader reads documents: it parses them, holds them to the limits and validates them against the schema where there is one.
type reader struct {
	schema        *ast.Schema // nil without
	rules         *rules.Rules
	depth, cost   int
	aliases       int
	tokens        int
	listSize      int
	introspection bool
	costs         map[string]int // of fields by Type.field, where it is not 1

	mu     sync.Mutex
	known  map[string]*list.Element // of *document by its text
	latest *list.List
}

// document is a document that has been found good. It is immutable.
type document struct {
	text string
	doc  *ast.QueryDocument
}

// What is kept of documents, so that those that come again are not validated again.
const (
	maxDocuments    = 512
	maxDocumentKept = 4 << 10
)

func newReader(c *Config, schema *ast.Schema) *reader {
	r := &reader{
		schema: schema, depth: c.MaxDepth, cost: c.MaxCost, aliases: c.MaxAliases, tokens: c.MaxTokens, listSize: c.ListSize,
		introspection: c.Introspection, costs: map[string]int{}, known: map[string]*list.Element{}, latest: list.New(),
	}
	r.rules = rules.NewDefaultRules()
	if !c.Introspection {
		// Suggestions would tell the schema word by word.
		for name, without := range map[string]validator.Rule{
			rules.FieldsOnCorrectTypeRule.Name: rules.FieldsOnCorrectTypeRuleWithoutSuggestions,
			rules.KnownArgumentNamesRule.Name:  rules.KnownArgumentNamesRuleWithoutSuggestions,
			rules.KnownTypeNamesRule.Name:      rules.KnownTypeNamesRuleWithoutSuggestions,
			rules.ScalarLeafsRule.Name:         rules.ScalarLeafsRuleWithoutSuggestions,
			rules.ValuesOfCorrectTypeRule.Name: rules.ValuesOfCorrectTypeRuleWithoutSuggestions,
		} {
			r.rules.RemoveRule(name)
			r.rules.AddRule(without.Name, without.RuleFunc)
		}
	}
	for name, resolver := range c.Resolvers {
		r.costs[name] = resolver.Cost
	}
	return r
}

// read returns the document of this text.
func (r *reader) read(text string) (*document, *refusal) {
	r.mu.Lock()
	if e := r.known[text]; e != nil {
		r.latest.MoveToFront(e)
		d := e.Value.(*document)
		r.mu.Unlock()
		return d, nil
	}
	r.mu.Unlock()
	d, refused := r.check(text)
	if refused == nil && len(text) <= maxDocumentKept {
		r.keep(d)
	}
	return d, refused
}

func (r *reader) keep(d *document) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[d.text] != nil {
		return
	}
	r.known[d.text] = r.latest.PushFront(d)
	if r.latest.Len() > maxDocuments {
		delete(r.known, r.latest.Remove(r.latest.Back()).(*document).text)
	}
}

// check parses and judges a document. Depth and aliases come before validation, whose time grows with them.
func (r *reader) check(text string) (d *document, refused *refusal) {
	defer func() {
		// The validator is not ours, and what it reads is anybody's.
		if p := recover(); p != nil {
			d, refused = nil, refuse("graphql_validation_failed", "the document can not be validated")
		}
	}()
	doc, err := parser.ParseQueryWithTokenLimit(&ast.Source{Input: text}, r.tokens)
	if err != nil {
		return nil, refusalOf("graphql_parse_failed", err)
	}
	if len(doc.Operations) == 0 {
		return nil, refuse("graphql_parse_failed", "the document has no operation")
	}
	m := newMeter(doc)
	for _, op := range doc.Operations {
		shape := m.shape(op.SelectionSet)
		switch {
		case r.depth > 0 && shape.depth > r.depth:
			return nil, refuse("graphql_depth", "the operation is "+strconv.Itoa(shape.depth)+" fields deep, and "+strconv.Itoa(r.depth)+" are allowed")
		case r.aliases > 0 && shape.aliases > r.aliases:
			return nil, refuse("graphql_aliases", "the operation has more than "+strconv.Itoa(r.aliases)+" aliases")
		case m.cyclic && r.schema == nil: // else validation tells
			return nil, refuse("graphql_cycle", "a fragment spreads itself")
		case !r.introspection && shape.introspects:
			return nil, refuse("graphql_introspection", "introspection is off here")
		}
	}
	if r.schema != nil {
		if crowded(doc) {
			return nil, refuse("graphql_crowded", "the document has too many fields of the same name")
		}
		if errs := validator.ValidateWithRules(r.schema, doc, r.rules); len(errs) > 0 {
			return nil, refusalOf("graphql_validation_failed", errs)
		}
	}
	return &document{text, doc}, nil
}

// refusalOf tells a client what is wrong with its document, at most ten of it.
func refusalOf(code string, err error) *refusal {
	const most = 10
	r := &refusal{reason: code}
	errs, ok := err.(gqlerror.List)
	if one, single := err.(*gqlerror.Error); single {
		errs, ok = gqlerror.List{one}, true
	}
	if !ok {
		return refuse(code, err.Error())
	}
	for _, e := range errs[:min(len(errs), most)] {
		out := coded(e.Message, code)
		for _, l := range e.Locations {
			out.Locations = append(out.Locations, location{l.Line, l.Column})
		}
		r.errors = append(r.errors, out)
	}
	return r
}

// choose returns the operation that is meant.
func (d *document) choose(name string) (*ast.OperationDefinition, *refusal) {
	if name == "" {
		if len(d.doc.Operations) > 1 {
			return nil, refuse("operation_resolution_failure", "the document has several operations; name one in operationName")
		}
		return d.doc.Operations[0], nil
	}
	if op := d.doc.Operations.ForName(name); op != nil {
		return op, nil
	}
	return nil, refuse("operation_resolution_failure", "the document has no operation of the name in operationName")
}

// meter measures documents. Each fragment is measured once, however often it is spread.
type meter struct {
	doc    *ast.QueryDocument
	shapes map[string]*shape // of fragments; nil while one is being measured
	cyclic bool              // what was measured has no end
}

// shape is what can be told of a selection without its variables.
type shape struct {
	depth, aliases int
	introspects    bool
}

func newMeter(doc *ast.QueryDocument) *meter {
	return &meter{doc: doc, shapes: make(map[string]*shape)}
}

func (m *meter) shape(set ast.SelectionSet) shape {
	var s shape
	for _, selection := range set {
		var below shape
		own := 0
		switch selection := selection.(type) {
		case *ast.Field:
			if selection.Alias != selection.Name {
				s.aliases = bounded(s.aliases + 1)
			}
			below, own = m.shape(selection.SelectionSet), 1
			if selection.Name == "__schema" || selection.Name == "__type" {
				// How deep this may nest is a rule of validation.
				below.depth, s.introspects = 0, true
			}
		case *ast.InlineFragment:
			below = m.shape(selection.SelectionSet)
		case *ast.FragmentSpread:
			below = m.fragment(selection.Name)
		}
		s.depth = max(s.depth, bounded(own+below.depth))
		s.aliases = bounded(s.aliases + below.aliases)
		s.introspects = s.introspects || below.introspects
	}
	return s
}

func (m *meter) fragment(name string) shape {
	if known, begun := m.shapes[name]; begun {
		if known == nil {
			m.cyclic = true
			return shape{}
		}
		return *known
	}
	f := m.doc.Fragments.ForName(name)
	if f == nil {
		return shape{}
	}
	m.shapes[name] = nil
	s := m.shape(f.SelectionSet)
	m.shapes[name] = &s
	return s
}

// maxPairs bounds the pairs of fields with the same key in a document. Validation may compare each of them, at up to 2 µs.
const maxPairs = 100_000

// crowded tells whether validating the document would take too long.
func crowded(doc *ast.QueryDocument) bool {
	seen, pairs := map[string]int{}, 0
	var count func(set ast.SelectionSet)
	count = func(set ast.SelectionSet) {
		for _, selection := range set {
			switch s := selection.(type) {
			case *ast.Field:
				pairs += seen[s.Alias]
				seen[s.Alias]++
				count(s.SelectionSet)
			case *ast.InlineFragment:
				count(s.SelectionSet)
			}
		}
	}
	for _, op := range doc.Operations {
		count(op.SelectionSet)
	}
	for _, f := range doc.Fragments {
		count(f.SelectionSet)
	}
	return pairs > maxPairs
}

// bounded keeps sums and products of what clients write from overflowing.
func bounded(n int) int {
	if n < 0 || n > math.MaxInt32 {
		return math.MaxInt32
	}
	return n
}

// price returns what the operation costs with these variables.
func (r *reader) price(d *document, op *ast.OperationDefinition, variables map[string]any) int {
	p := pricer{reader: r, doc: d.doc, variables: variables, known: make(map[priced]int)}
	return p.set(op.SelectionSet, false)
}

func (r *reader) affordable(d *document, op *ast.OperationDefinition, variables map[string]any) *refusal {
	if r.cost == 0 {
		return nil
	}
	if n := r.price(d, op, variables); n > r.cost {
		return refuse("graphql_cost", "the operation costs "+strconv.Itoa(n)+", and "+strconv.Itoa(r.cost)+" is allowed")
	}
	return nil
}

type pricer struct {
	reader    *reader
	doc       *ast.QueryDocument
	variables map[string]any
	known     map[priced]int
}

type priced struct {
	fragment string
	sized    bool
}

// set prices a selection. sized tells that an argument of the field above has said how long the lists in it are.
func (p *pricer) set(set ast.SelectionSet, sized bool) int {
	total := 0
	for _, selection := range set {
		switch selection := selection.(type) {
		case *ast.Field:
			total += p.field(selection, sized)
		case *ast.InlineFragment:
			total += p.set(selection.SelectionSet, sized)
		case *ast.FragmentSpread:
			key := priced{selection.Name, sized}
			n, known := p.known[key]
			if f := p.doc.Fragments.ForName(selection.Name); !known && f != nil {
				p.known[key] = 0 // a cycle ends here
				n = p.set(f.SelectionSet, sized)
				p.known[key] = n
			}
			total += n
		}
		total = bounded(total)
	}
	return total
}

func (p *pricer) field(f *ast.Field, sized bool) int {
	own, times, below := 1, 1, false
	if f.Name == "__schema" || f.Name == "__type" {
		return own
	}
	if f.ObjectDefinition != nil {
		if n, ok := p.reader.costs[f.ObjectDefinition.Name+"."+f.Name]; ok {
			own = n
		}
	}
	isList := f.Definition != nil && f.Definition.Type.Elem != nil
	n, told := p.size(f)
	switch {
	case told:
		times, below = n, !isList
	case isList && !sized:
		times = p.reader.listSize
	}
	inner := p.set(f.SelectionSet, below)
	if inner > 0 && times > math.MaxInt32/inner {
		return math.MaxInt32
	}
	return bounded(own + times*inner)
}

// size looks for the argument that says how much is asked for.
func (p *pricer) size(f *ast.Field) (int, bool) {
	for _, name := range [...]string{"first", "last", "limit"} {
		a := f.Arguments.ForName(name)
		if a == nil {
			continue
		}
		var text string
		switch a.Value.Kind {
		case ast.IntValue:
			text = a.Value.Raw
		case ast.Variable:
			switch v := p.variables[a.Value.Raw].(type) {
			case json.Number:
				text = v.String()
			case nil:
				if d := a.Value.VariableDefinition; d != nil && d.DefaultValue != nil {
					text = d.DefaultValue.Raw
				}
			}
		}
		if n, err := strconv.Atoi(text); err == nil {
			return min(max(n, 0), math.MaxInt32), true
		}
		if text != "" {
			return math.MaxInt32, true
		}
	}
	return 0, false
}
