"""The graph of a symbol as objects that can be changed, which MXNet's own symbols can't be."""

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NamedTuple

import mxnet as mx


class Edge(NamedTuple):
    """What an operator reads: output number `output` of `node`. version : MXNet's own."""

    node: "Node"
    output: int = 0
    version: int = 0


@dataclass(eq=False)
class Node:
    """An operator, or a variable (`op` is ``null``). attrs : as MXNet writes them, text. subgraphs
    : what an operator of oneDNN, as int8 networks have them, stands for."""

    op: str
    name: str
    attrs: Dict[str, str] = field(default_factory=dict)
    inputs: List[Edge] = field(default_factory=list)
    subgraphs: List[Any] = field(default_factory=list)

    @property
    def is_variable(self) -> bool:
        return self.op == "null"


class Graph:
    """Nodes, reached from `heads`, the outputs. attrs : of the whole, as MXNet's version."""

    def __init__(self, heads: List[Edge], attrs: Dict[str, Any]):
        self.heads = heads
        self.attrs = attrs

    @classmethod
    def of(cls, symbol: mx.sym.Symbol) -> "Graph":
        graph = json.loads(symbol.tojson(remove_amp_cast=False))
        nodes: List[Node] = []
        for entry in graph["nodes"]:
            inputs = [Edge(nodes[source], *rest) for source, *rest in entry["inputs"]]
            attrs, subgraphs = dict(entry.get("attrs", {})), entry.get("subgraphs", [])
            nodes.append(Node(entry["op"], entry["name"], attrs, inputs, subgraphs))
        heads = [Edge(nodes[source], *rest) for source, *rest in graph["heads"]]
        return cls(heads, graph["attrs"])

    def nodes(self) -> List[Node]:
        """Return all nodes, each after those that it reads, in MXNet's order."""
        ordered: Dict[Node, None] = {}
        for head in self.heads:
            stack = [(head.node, iter(head.node.inputs))]
            while stack:
                node, edges = stack[-1]
                edge = next((e for e in edges if e.node not in ordered), None)
                if edge:
                    stack.append((edge.node, iter(edge.node.inputs)))
                else:
                    ordered.setdefault(node)
                    stack.pop()
        return list(ordered)

    def operators(self, *ops: str) -> List[Node]:
        return [node for node in self.nodes() if node.op in ops]

    def readers(self) -> Dict[Node, List[Node]]:
        """Return, for each node, the operators that read it."""
        readers: Dict[Node, List[Node]] = {node: [] for node in self.nodes()}
        for node in list(readers):
            for edge in node.inputs:
                readers[edge.node].append(node)
        return readers

    def replace(self, replaced: Dict[Node, Node]) -> None:
        """Have whatever reads a key of `replaced` read its value instead."""

        def redirected(edges: Iterable[Edge]) -> List[Edge]:
            return [edge._replace(node=replaced.get(edge.node, edge.node)) for edge in edges]

        for node in self.nodes():
            node.inputs = redirected(node.inputs)
        self.heads = redirected(self.heads)

    def symbol(self) -> mx.sym.Symbol:
        nodes = self.nodes()
        number = {node: i for i, node in enumerate(nodes)}

        def numbered(edges: Iterable[Edge]) -> list:
            return [[number[edge.node], edge.output, edge.version] for edge in edges]

        graph = {
            "nodes": [
                {
                    "op": n.op,
                    "name": n.name,
                    "attrs": n.attrs,
                    "inputs": numbered(n.inputs),
                    **({"subgraphs": n.subgraphs} if n.subgraphs else {}),
                }
                for n in nodes
            ],
            "arg_nodes": [number[node] for node in nodes if node.is_variable],
            "heads": numbered(self.heads),
            "attrs": self.attrs,
        }
        return mx.sym.load_json(json.dumps(graph))
