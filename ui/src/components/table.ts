export interface Column {
  id: string;
  label: string;
  /** What it means, as a tooltip. */
  title?: string;
  /** Numbers stand at the right. */
  num?: boolean;
  sortable?: boolean;
  /** The order that a first click gives. */
  first?: 'asc' | 'desc';
  /** Long text may take several lines. */
  wrap?: boolean;
}

export interface Sort {
  by: string;
  order: 'asc' | 'desc';
}
