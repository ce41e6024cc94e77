package graphql

import (
	"encoding/json"
	"slices"

	"github.com/vektah/gqlparser/v2/ast"

	"sluice/gateway/exchange"
)

// execution carries out one operation. It goes in waves: everything that needs no call is completed at once, and the calls
// that are left then are made together, so that equal ones become one, and those of many objects a batch.
type execution struct {
	schema    *ast.Schema
	resolvers map[string]*resolver
	x         *exchange.Exchange
	caller    *caller
	doc       *ast.QueryDocument
	variables map[string]any
	mutates   bool

	wave    []*wanted
	calls   map[string]*call // those made, for what asks for the same again
	batches map[string]*batched
	errors  []gqlError
	nodes   int
}

// node is a value of the answer. A null that may not be one makes its parent null.
type node struct {
	parent *node
	name   string // its key in an object
	index  int    // its place in a list, where name is ""
	strict bool   // not null
	null   bool
	leaf   []byte
	fields []*node
	items  []*node
	object bool
}

// group is what a selection asks under one key.
type group struct {
	key    string
	fields []*ast.Field
}

// wanted is a field whose value comes from a call.
type wanted struct {
	node     *node
	group    *group
	def      *ast.FieldDefinition
	resolver *resolver
	args     map[string]any
	parent   any

	call  *call
	batch *batched
	key   string // of the batch
	done  bool
}

// batched is what one batch form has been asked for with the same arguments.
type batched struct {
	of    *wanted
	calls map[string]*call // by key
	keys  []any            // of those that are to be asked for
	names []string
	// elements of the answers by their key.
	elements map[*call]map[string][]any
}

// Bounds of an answer.
const (
	maxNodes  = 250_000
	maxErrors = 100
)

// run carries the operation out and returns the answer.
func (e *execution) run(op *ast.OperationDefinition) []byte {
	root := &node{object: true}
	def := e.schema.Query
	if e.mutates = op.Operation == ast.Mutation; e.mutates {
		def = e.schema.Mutation
	}
	groups := e.collect(def, op.SelectionSet)
	if e.mutates {
		// One after the other, each with all that it asks for (GraphQL, section 6.2.2), and what one has read another may have changed.
		for i := range groups {
			clear(e.calls)
			clear(e.batches)
			e.field(root, def, nil, &groups[i])
			e.settle()
		}
	} else {
		for i := range groups {
			e.field(root, def, nil, &groups[i])
		}
		e.settle()
	}
	b := append(make([]byte, 0, 1024), `{"data":`...)
	b = root.append(b)
	if len(e.errors) > 0 {
		text, err := json.Marshal(e.errors)
		if err == nil {
			b = append(append(b, `,"errors":`...), text...)
		}
	}
	return append(b, '}')
}

// collect groups the fields of selections by their key, in order (GraphQL, section 6.3.2).
func (e *execution) collect(def *ast.Definition, sets ...ast.SelectionSet) []group {
	var groups []group
	visited := map[string]bool{}
	var visit func(set ast.SelectionSet)
	visit = func(set ast.SelectionSet) {
		for _, selection := range set {
			switch s := selection.(type) {
			case *ast.Field:
				if !e.included(s.Directives) {
					continue
				}
				if i := slices.IndexFunc(groups, func(g group) bool { return g.key == s.Alias }); i >= 0 {
					groups[i].fields = append(groups[i].fields, s)
				} else {
					groups = append(groups, group{s.Alias, []*ast.Field{s}})
				}
			case *ast.InlineFragment:
				if e.included(s.Directives) && e.applies(s.TypeCondition, def) {
					visit(s.SelectionSet)
				}
			case *ast.FragmentSpread:
				if visited[s.Name] || !e.included(s.Directives) {
					continue
				}
				visited[s.Name] = true
				if f := e.doc.Fragments.ForName(s.Name); f != nil && e.applies(f.TypeCondition, def) {
					visit(f.SelectionSet)
				}
			}
		}
	}
	for _, set := range sets {
		visit(set)
	}
	return groups
}

// included obeys @skip and @include.
func (e *execution) included(directives ast.DirectiveList) bool {
	for _, d := range directives {
		if d.Name != "skip" && d.Name != "include" {
			continue
		}
		a := d.Arguments.ForName("if")
		if a == nil {
			continue
		}
		if on, _ := literal(e.schema, nil, a.Value, e.variables).(bool); on == (d.Name == "skip") {
			return false
		}
	}
	return true
}

// applies tells whether a fragment on a type is for objects of def.
func (e *execution) applies(condition string, def *ast.Definition) bool {
	if condition == "" || condition == def.Name {
		return true
	}
	on := e.schema.Types[condition]
	return on != nil && on.IsAbstractType() && slices.ContainsFunc(e.schema.GetPossibleTypes(on), func(t *ast.Definition) bool { return t.Name == def.Name })
}

// field begins a field of an object.
func (e *execution) field(object *node, def *ast.Definition, source any, g *group) {
	f := g.fields[0]
	n := &node{parent: object, name: g.key}
	object.fields = append(object.fields, n)
	if f.Name == "__typename" {
		e.nodes++
		n.strict, n.leaf = true, appendJSON(nil, def.Name)
		return
	}
	fd := def.Fields.ForName(f.Name)
	if fd == nil {
		e.fail(n, g, errInternal)
		return
	}
	n.strict = fd.Type.NonNull
	args, problem := arguments(e.schema, fd.Arguments, f.Arguments, e.variables)
	if problem != "" {
		e.fail(n, g, coded(problem, "bad_user_input"))
		return
	}
	if r := e.resolvers[def.Name+"."+f.Name]; r != nil {
		e.wave = append(e.wave, &wanted{node: n, group: g, def: fd, resolver: r, args: args, parent: source})
		return
	}
	var v any
	switch source := source.(type) {
	case described:
		v = source.field(f.Name, args)
	case map[string]any:
		v = source[f.Name]
	}
	if def == e.schema.Query {
		switch f.Name {
		case "__schema":
			v = describedSchema{e.schema}
		case "__type":
			name, _ := args["name"].(string)
			v = describedDefinition(e.schema, e.schema.Types[name])
		}
	}
	e.complete(n, fd.Type, g, v)
}

// settle makes the calls that fields wait for, wave after wave.
func (e *execution) settle() {
	for len(e.wave) > 0 {
		wave := e.wave
		e.wave = nil
		calls := e.plan(wave)
		if len(calls) > 0 {
			e.caller.run(calls)
		}
		for _, w := range wave {
			if !w.done && !w.node.dead() {
				e.deliver(w)
			}
		}
	}
}

// plan decides which calls a wave needs.
func (e *execution) plan(wave []*wanted) []*call {
	var calls []*call
	var batches []*batched
	for _, w := range wave {
		if w.node.dead() {
			w.done = true
			continue
		}
		s := scope{x: e.x, args: w.args, parent: w.parent}
		if w.resolver.batch != nil {
			if b := e.batch(w, &s); b != nil && !slices.Contains(batches, b) {
				batches = append(batches, b)
			}
			continue
		}
		c, problem := w.resolver.single.render(w.resolver.service, &s)
		if problem != nil {
			w.done = true
			e.fail(w.node, w.group, *problem)
			continue
		}
		id := c.identity()
		if made := e.calls[id]; made != nil && e.shares(c) {
			w.call = made
			continue
		}
		c.safe = c.method == "GET"
		w.call, e.calls[id] = c, c
		calls = append(calls, c)
	}
	for _, b := range batches {
		calls = append(calls, e.chunks(b)...)
	}
	return calls
}

// shares tells whether equal calls may be one: what a mutation writes is written as often as it says.
func (e *execution) shares(c *call) bool {
	return c.method == "GET" || !e.mutates
}

// batch notes the key of a field in its batch, and returns the batch if the key is new in it.
func (e *execution) batch(w *wanted, s *scope) *batched {
	key, ok := w.resolver.key.value(s)
	if !ok || textual(key) == "" {
		w.done = true
		e.complete(w.node, w.def.Type, w.group, w.nothing())
		return nil
	}
	id := w.resolver.name + "\x00" + string(appendJSON(nil, w.args))
	b := e.batches[id]
	if b == nil {
		b = &batched{of: w, calls: map[string]*call{}, elements: map[*call]map[string][]any{}}
		e.batches[id] = b
	}
	w.batch, w.key = b, textual(key)
	if _, known := b.calls[w.key]; known {
		return nil
	}
	b.calls[w.key] = nil
	b.keys, b.names = append(b.keys, key), append(b.names, w.key)
	return b
}

// chunks makes the calls for the keys of a batch that are to be asked for.
func (e *execution) chunks(b *batched) []*call {
	var calls []*call
	for len(b.keys) > 0 {
		n := min(len(b.keys), b.of.resolver.max)
		c, problem := b.of.resolver.batch.render(b.of.resolver.service, &scope{x: e.x, args: b.of.args, keys: b.keys[:n]})
		if problem != nil {
			c = &call{outcome: outcome{err: problem}, ended: true}
		} else {
			c.safe = true
			calls = append(calls, c)
		}
		for _, name := range b.names[:n] {
			b.calls[name] = c
		}
		b.keys, b.names = b.keys[n:], b.names[n:]
	}
	b.keys, b.names = nil, nil
	return calls
}

// deliver completes a field with what its call has brought.
func (e *execution) deliver(w *wanted) {
	if w.batch == nil {
		isNull, problem := w.resolver.failure(w.call)
		switch {
		case problem != nil:
			e.fail(w.node, w.group, *problem)
		case isNull:
			e.complete(w.node, w.def.Type, w.group, nil)
		default:
			e.complete(w.node, w.def.Type, w.group, walk(w.call.value, w.resolver.single.extract))
		}
		return
	}
	c := w.batch.calls[w.key]
	isNull, problem := w.resolver.failure(c)
	switch {
	case problem != nil:
		e.fail(w.node, w.group, *problem)
		return
	case isNull:
		e.complete(w.node, w.def.Type, w.group, w.nothing())
		return
	}
	v := walk(c.value, w.resolver.batch.extract)
	if byName, ok := v.(map[string]any); ok {
		if v = byName[w.key]; v == nil {
			v = w.nothing()
		}
		e.complete(w.node, w.def.Type, w.group, v)
		return
	}
	list, ok := v.([]any)
	if !ok {
		e.fail(w.node, w.group, coded("the service did not answer with a list or an object of what was asked for", "answer_malformed"))
		return
	}
	elements := w.batch.elements[c]
	if elements == nil {
		elements = make(map[string][]any, len(list))
		path := splitPath(w.resolver.by)
		for _, element := range list {
			key := textual(walk(element, path))
			elements[key] = append(elements[key], element)
		}
		w.batch.elements[c] = elements
	}
	found := elements[w.key]
	switch {
	case w.resolver.isList && found == nil:
		e.complete(w.node, w.def.Type, w.group, w.nothing())
	case w.resolver.isList:
		e.complete(w.node, w.def.Type, w.group, found)
	case len(found) == 0:
		e.complete(w.node, w.def.Type, w.group, nil)
	default:
		e.complete(w.node, w.def.Type, w.group, found[0])
	}
}

// nothing is what a batch has for a key that it does not know.
func (w *wanted) nothing() any {
	if w.resolver.isList {
		return []any{}
	}
	return nil
}

// complete puts a value of a type into the answer (GraphQL, section 6.4.3).
func (e *execution) complete(n *node, t *ast.Type, g *group, v any) {
	if e.nodes++; e.nodes > maxNodes {
		e.fail(n, g, coded("the answer is too large", "answer_too_large"))
		return
	}
	if v == nil {
		if t.NonNull {
			f := g.fields[0]
			e.fail(n, g, coded("cannot return null for the non-nullable field "+f.ObjectDefinition.Name+"."+f.Name, "null_value"))
			return
		}
		n.null = true
		return
	}
	if t.Elem != nil {
		list, ok := v.([]any)
		if !ok {
			e.fail(n, g, coded("the service did not give a list", "answer_malformed"))
			return
		}
		n.items = make([]*node, 0, len(list))
		for i, item := range list {
			child := &node{parent: n, index: i, strict: t.Elem.NonNull}
			n.items = append(n.items, child)
			e.complete(child, t.Elem, g, item)
			if n.dead() {
				return
			}
		}
		return
	}
	def := e.schema.Types[t.NamedType]
	if def.IsLeafType() {
		leaf, ok := appendLeaf(nil, def, v)
		if !ok {
			e.fail(n, g, coded("the service gave a value that is no "+def.Name, "answer_malformed"))
			return
		}
		n.leaf = leaf
		return
	}
	e.object(n, def, g, v)
}

// object begins the fields of an object.
func (e *execution) object(n *node, def *ast.Definition, g *group, v any) {
	_, isDescribed := v.(described)
	fields, isObject := v.(map[string]any)
	if !isDescribed && !isObject {
		e.fail(n, g, coded("the service did not give an object", "answer_malformed"))
		return
	}
	if def.IsAbstractType() {
		possible := e.schema.GetPossibleTypes(def)
		name, _ := fields["__typename"].(string)
		i := slices.IndexFunc(possible, func(t *ast.Definition) bool { return t.Name == name })
		switch {
		case i >= 0:
			def = possible[i]
		case name == "" && len(possible) == 1:
			def = possible[0]
		default:
			e.fail(n, g, coded("the service did not tell which type of "+def.Name+" the object has, in __typename", "answer_malformed"))
			return
		}
	}
	n.object = true
	sets := make([]ast.SelectionSet, len(g.fields))
	for i, f := range g.fields {
		sets[i] = f.SelectionSet
	}
	groups := e.collect(def, sets...)
	n.fields = make([]*node, 0, len(groups))
	for i := range groups {
		e.field(n, def, v, &groups[i])
		if n.dead() {
			return
		}
	}
}

// fail notes an error at a field, and makes null what can be (GraphQL, section 6.4.4).
func (e *execution) fail(n *node, g *group, problem gqlError) {
	if n.dead() {
		return
	}
	if len(e.errors) < maxErrors {
		problem.Path = n.path()
		if p := g.fields[0].Position; p != nil {
			problem.Locations = []location{{p.Line, p.Column}}
		}
		e.errors = append(e.errors, problem)
	}
	for n.strict && n.parent != nil {
		n = n.parent
	}
	n.null, n.fields, n.items = true, nil, nil
}

// dead tells whether the node is not in the answer any more, because it or something above it has become null.
func (n *node) dead() bool {
	for ; n != nil; n = n.parent {
		if n.null {
			return true
		}
	}
	return false
}

func (n *node) path() []any {
	var path []any
	for ; n.parent != nil; n = n.parent {
		if n.name != "" {
			path = append(path, n.name)
		} else {
			path = append(path, n.index)
		}
	}
	slices.Reverse(path)
	return path
}

func (n *node) append(b []byte) []byte {
	switch {
	case n.null:
		return append(b, "null"...)
	case n.object:
		b = append(b, '{')
		for i, f := range n.fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '"')
			b = append(b, f.name...) // a GraphQL name needs no escapes
			b = append(b, '"', ':')
			b = f.append(b)
		}
		return append(b, '}')
	case n.leaf != nil:
		return append(b, n.leaf...)
	}
	b = append(b, '[')
	for i, item := range n.items {
		if i > 0 {
			b = append(b, ',')
		}
		b = item.append(b)
	}
	return append(b, ']')
}
