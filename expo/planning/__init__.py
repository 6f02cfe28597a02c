"""Recipe + Checkpoints -> Plan of Jobs; reads no tensor data."""

from expo.planning.build import plan
from expo.planning.jobs import Job, Operand, OutputShard, Plan, RowRun, TiedPair

__all__ = ["Job", "Operand", "OutputShard", "Plan", "RowRun", "TiedPair", "plan"]
